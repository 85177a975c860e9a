// An OpenTelemetry Collector made of the project's own parts: its OTLP receiver, and an exporter that writes what came
// to a file as OTLP JSON, one line a request.
//
// usage: counterpart [--port N] [--tls-cert FILE --tls-key FILE] FILE
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/service/telemetry"
)

func components() (otelcol.Factories, error) {
	receivers, err := otelcol.MakeFactoryMap[receiver.Factory](otlpreceiver.NewFactory())
	if err != nil {
		return otelcol.Factories{}, err
	}
	// Of the collector itself nothing is told.
	silent := telemetry.NewFactory(func() component.Config { return &struct{}{} })
	exporters, err := otelcol.MakeFactoryMap[exporter.Factory](newFactory())
	return otelcol.Factories{Receivers: receivers, Exporters: exporters, Telemetry: silent}, err
}

// config is a configuration as a collector's file has it. It is inline YAML, which is JSON too.
func config(port int, certificate, key, output string) string {
	tls := ""
	if certificate != "" {
		tls = fmt.Sprintf("tls: {cert_file: %q, key_file: %q}, ", certificate, key)
	}
	return fmt.Sprintf(`yaml:{
  receivers: {otlp: {protocols: {http: {%sendpoint: "127.0.0.1:%d", include_metadata: true}}}},
  exporters: {lines: {path: %q}},
  service: {
    pipelines: {
      traces: {receivers: [otlp], exporters: [lines]},
      metrics: {receivers: [otlp], exporters: [lines]}}}}`, tls, port, output)
}

func main() {
	port := flag.Int("port", 4318, "where to listen, on loopback")
	certificate := flag.String("tls-cert", "", "serve https with this certificate")
	key := flag.String("tls-key", "", "and this key")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(64)
	}
	settings := otelcol.CollectorSettings{
		BuildInfo: component.BuildInfo{Command: "otelcol", Version: "1"},
		Factories: components,
		ConfigProviderSettings: otelcol.ConfigProviderSettings{
			ResolverSettings: confmap.ResolverSettings{
				URIs:              []string{config(*port, *certificate, *key, flag.Arg(0))},
				ProviderFactories: []confmap.ProviderFactory{yamlprovider.NewFactory()},
			},
		},
	}
	collector, err := otelcol.NewCollector(settings)
	if err == nil {
		err = collector.Run(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
