package main

import (
	"context"
	"encoding/json"
	"os"
	"sync"

	"go.opentelemetry.io/collector/client"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// linesConfig is the section of the exporter.
type linesConfig struct {
	Path string `mapstructure:"path"`
}

// lines writes each request as one line: {"signal", "authorization", "data"}.
type lines struct {
	mu   sync.Mutex
	file *os.File
}

// Both pipelines write to one file.
var shared = &lines{}

func newFactory() exporter.Factory {
	level := component.StabilityLevelDevelopment
	return exporter.NewFactory(
		component.MustNewType("lines"),
		func() component.Config { return &linesConfig{} },
		exporter.WithTraces(func(_ context.Context, _ exporter.Settings, config component.Config) (exporter.Traces, error) {
			return traceLines{shared}, shared.open(config)
		}, level),
		exporter.WithMetrics(func(_ context.Context, _ exporter.Settings, config component.Config) (exporter.Metrics, error) {
			return metricLines{shared}, shared.open(config)
		}, level),
	)
}

func (l *lines) open(config component.Config) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		return nil
	}
	var err error
	l.file, err = os.OpenFile(config.(*linesConfig).Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return err
}

func (l *lines) write(ctx context.Context, signal string, data []byte, err error) error {
	if err != nil {
		return err
	}
	line, err := json.Marshal(map[string]any{
		"signal":        signal,
		"authorization": client.FromContext(ctx).Metadata.Get("authorization"),
		"data":          json.RawMessage(data),
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.file.Write(append(line, '\n'))
	return err
}

func (l *lines) Start(context.Context, component.Host) error { return nil }
func (l *lines) Shutdown(context.Context) error              { return nil }
func (l *lines) Capabilities() consumer.Capabilities         { return consumer.Capabilities{} }

type traceLines struct{ *lines }

func (l traceLines) ConsumeTraces(ctx context.Context, traces ptrace.Traces) error {
	data, err := (&ptrace.JSONMarshaler{}).MarshalTraces(traces)
	return l.write(ctx, "traces", data, err)
}

type metricLines struct{ *lines }

func (l metricLines) ConsumeMetrics(ctx context.Context, metrics pmetric.Metrics) error {
	data, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(metrics)
	return l.write(ctx, "metrics", data, err)
}
