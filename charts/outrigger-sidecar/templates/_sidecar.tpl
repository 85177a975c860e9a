{{- /*
The templates that a chart includes. Each takes the chart's own context:

  {{- include "outrigger-sidecar.volumes" . | nindent 8 }}

or a map, for a chart with several workloads or init containers of its own:

  root     the chart's context
  values   what differs from the values under `outrigger-sidecar`
  own      the chart's own init containers, a list; ours is put first or last among them (see `position`)
*/ -}}

{{- define "outrigger-sidecar.context" -}}
{{- $root := .root | default . -}}
{{- $defaults := index $root.Values "outrigger-sidecar" | default $root.Values.outrigger -}}
{{- if not $defaults -}}
{{- fail "\n\nthe dependency outrigger-sidecar has no values: its alias can only be \"outrigger\"" -}}
{{- end -}}
{{- $values := mergeOverwrite (deepCopy $defaults) (.values | default dict) -}}
{{- if not $values.servers -}}
{{- fail "\n\noutrigger-sidecar.servers is empty. Name an MCP server:\n  outrigger-sidecar:\n    servers:\n      - name: github\n        endpoints: [{url: \"https://mcp.example.com/mcp\"}]" -}}
{{- end -}}
{{- $config := $values.profile.name | default (printf "%s-outrigger" $root.Release.Name | trunc 63 | trimSuffix "-") -}}
{{- if $values.profile.create -}}
{{- range $values.servers -}}
{{- if not .endpoints -}}{{- fail (printf "\n\nservers[%s]: endpoints: [{url: \"https://mcp.example.com/mcp\"}]" .name) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $context := dict "values" $values "mode" "sidecar" "config" $config -}}
{{- include "outrigger-pod.validate" $context -}}
{{- $context | toJson -}}
{{- end -}}

{{- /* For `initContainers`: the native sidecar, and the chart's own ones if they were given. */ -}}
{{- define "outrigger-sidecar.initContainers" -}}
{{- $context := include "outrigger-sidecar.context" . | fromJson -}}
{{- $own := list -}}
{{- if and .root (hasKey . "own") -}}
{{- $own = .own | default list -}}
{{- else if eq $context.values.position "last" -}}
{{- fail "\n\nposition: last puts the sidecar behind the init containers that it is given, and it is given none:\n  include \"outrigger-sidecar.initContainers\" (dict \"root\" . \"own\" $list)\nOr write the include behind your own ones, and leave position as it is." -}}
{{- end -}}
{{- if and $own (eq $context.values.position "last") }}
{{- toYaml $own }}
{{ end }}
{{- include "outrigger-pod.container" $context }}
{{- if and $own (eq $context.values.position "first") }}
{{ toYaml $own }}
{{- end }}
{{- end -}}

{{- /* For `volumes`. */ -}}
{{- define "outrigger-sidecar.volumes" -}}
{{- include "outrigger-pod.volumes" (include "outrigger-sidecar.context" . | fromJson) -}}
{{- end -}}

{{- /*
For the `env` of the container that calls MCP servers. The paths are those with the server's name in them, which stay
true when servers come and go while the pod runs.
*/ -}}
{{- define "outrigger-sidecar.env" -}}
{{- $context := include "outrigger-sidecar.context" . | fromJson -}}
{{- $values := $context.values -}}
{{- $servers := dict -}}
{{- range $values.servers -}}
{{- $url := printf "http://127.0.0.1:%d%s" (int $values.ports.mcp) (include "outrigger-pod.path" (dict "values" $values "server" .)) -}}
{{- $servers = set $servers .name (dict "type" "http" "url" $url) -}}
{{- end -}}
- name: OUTRIGGER_SERVERS
  value: {{ dict "mcpServers" $servers | toJson | quote }}
{{- if eq (len $values.servers) 1 }}
- name: MCP_SERVER_URL
  value: {{ (get $servers (first $values.servers).name).url | quote }}
{{- end }}
{{- end -}}

{{- /* For the pod's `labels`, if PodMonitors and people are to find the pods. */ -}}
{{- define "outrigger-sidecar.labels" -}}
{{- $context := include "outrigger-sidecar.context" . | fromJson -}}
outrigger.dev/injected: {{ $context.config | quote }}
outrigger.dev/sidecar-version: {{ $context.values.image.tag | quote }}
{{- end -}}

{{- /* For the pod's `annotations`: restarts pods where a change of the values needs it, and announces the port. */ -}}
{{- define "outrigger-sidecar.annotations" -}}
{{- $context := include "outrigger-sidecar.context" . | fromJson -}}
outrigger.dev/restart-checksum: {{ include "outrigger-pod.restartChecksum" $context }}
{{- if eq $context.values.monitoring.scrape "annotations" }}
prometheus.io/scrape: "true"
prometheus.io/path: /metrics
prometheus.io/port: {{ int $context.values.ports.admin | quote }}
{{- end }}
{{- end -}}

{{- /* A template file of its own: the ConfigMap with the configuration, and what else was asked for. */ -}}
{{- define "outrigger-sidecar.resources" -}}
{{- $context := include "outrigger-sidecar.context" . | fromJson -}}
{{- if $context.values.profile.create }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $context.config | quote }}
  labels:
    app.kubernetes.io/name: outrigger
    app.kubernetes.io/component: sidecar
data:
  outrigger.yaml: |
    {{- include "outrigger-pod.document" $context | nindent 4 }}
{{- end }}
{{- with $context.values.monitoring }}
{{- if eq .scrape "podMonitor" }}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ $context.config | quote }}
  labels:
    app.kubernetes.io/name: outrigger
    app.kubernetes.io/component: sidecar
    {{- with .labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      outrigger.dev/injected: {{ $context.config | quote }}
  podMetricsEndpoints:
    - port: mcp-admin
      path: /metrics
      interval: {{ .interval | quote }}
{{- end }}
{{- end }}
{{- end -}}
