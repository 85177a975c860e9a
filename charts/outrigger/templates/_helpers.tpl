{{- define "outrigger.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "outrigger.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- /* Of the pod of `helm test`. */ -}}
{{- define "outrigger.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end -}}

{{- /* The server that `helm test` calls, as JSON. */ -}}
{{- define "outrigger.testServer" -}}
{{- $server := first .Values.servers -}}
{{- range .Values.servers }}{{ if eq .name $.Values.test.server }}{{ $server = . }}{{ end }}{{ end -}}
{{- if and .Values.test.server (ne .Values.test.server $server.name) -}}
{{- fail (printf "\n\ntest.server: no server is named %q" .Values.test.server) -}}
{{- end -}}
{{- $server | toJson -}}
{{- end -}}

{{- define "outrigger.labels" -}}
{{ include "outrigger.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "outrigger.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "outrigger.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* How long a pod waits before it is told to end: until the Service has forgotten it. */ -}}
{{- define "outrigger.preStopSeconds" -}}5{{- end -}}

{{- /* The context of the templates in _pod.tpl, as JSON. */ -}}
{{- define "outrigger.context" -}}
{{- $name := include "outrigger.name" . -}}
{{- $context := dict "values" .Values "mode" "gateway" "config" $name "sessionKeySecret" (printf "%s-session-key" $name) -}}
{{- /* The sleep of a preStop hook is on by default from 1.30 on; without it, 1.29 refuses the pod. */ -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- $seconds := include "outrigger.preStopSeconds" . | int -}}
{{- $context = set $context "lifecycle" (dict "preStop" (dict "sleep" (dict "seconds" $seconds))) -}}
{{- end -}}
{{- $context | toJson -}}
{{- end -}}

{{- /* What must be said before there can be a gateway. */ -}}
{{- define "outrigger.validate" -}}
{{- if not .Values.servers -}}
{{- fail "\n\nservers is empty. Name an MCP server, as in a configuration file:\n  servers:\n    - name: github\n      endpoints: [{url: \"https://mcp.example.com/mcp\"}]" -}}
{{- end -}}
{{- range .Values.servers -}}
{{- if not .endpoints -}}{{- fail (printf "\n\nservers[%s]: endpoints: [{url: \"https://mcp.example.com/mcp\"}]" .name) -}}{{- end -}}
{{- end -}}
{{- include "outrigger-pod.validate" (include "outrigger.context" . | fromJson) -}}
{{- $isMany := or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled -}}
{{- if and $isMany (not (or .Values.sessionKey.existingSecret .Values.sessionKey.generate)) -}}
{{- fail "\n\nReplicas need one key, or a session of one is unknown to the others. Either\n  kubectl create secret generic outrigger-session-key --from-literal=session-key=$(openssl rand -hex 32)\n  and sessionKey.existingSecret: outrigger-session-key (right for Argo CD and the like),\nor sessionKey.generate: true (helm install makes the Secret)." -}}
{{- end -}}
{{- if and .Values.sessionKey.existingSecret .Values.sessionKey.generate -}}
{{- fail "\n\nsessionKey: existingSecret or generate, not both" -}}
{{- end -}}
{{- end -}}

{{- /* Whole seconds of a duration of the configuration (1500ms, 60s, 5m, 1h, 1d), rounded up. */ -}}
{{- define "outrigger.seconds" -}}
{{- $units := dict "s" 1 "m" 60 "h" 3600 "d" 86400 -}}
{{- if hasSuffix "ms" . -}}
{{- div (add (trimSuffix "ms" . | int) 999) 1000 -}}
{{- else -}}
{{- mul (regexFind "^[0-9]+" . | int) (get $units (regexFind "[smhd]$" .)) -}}
{{- end -}}
{{- end -}}

{{- /* The ports that the values lead to, as JSON: of the servers' endpoints, and of the collector. */ -}}
{{- define "outrigger.upstreamPorts" -}}
{{- $urls := list -}}
{{- range .Values.servers -}}{{- range .endpoints -}}{{- $urls = append $urls .url -}}{{- end -}}{{- end -}}
{{- with dig "tracing" "otlpEndpoint" "" .Values.observability -}}{{- $urls = append $urls . -}}{{- end -}}
{{- range .Values.env -}}
{{- if and .value (regexMatch "^OTEL_EXPORTER_OTLP_([A-Z]+_)?ENDPOINT$" .name) -}}{{- $urls = append $urls .value -}}{{- end -}}
{{- end -}}
{{- $ports := list -}}
{{- range $urls -}}
{{- $host := regexFind "^[^/?#]+//[^/?#]+" . -}}
{{- if regexMatch ":[0-9]+$" $host -}}
{{- $ports = append $ports (regexFind "[1-9][0-9]*$" $host | int) -}}
{{- else -}}
{{- $ports = append $ports (hasPrefix "https:" (lower .) | ternary 443 80) -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{- /* The URL of a server within the cluster: takes (dict "root" $ "server" …). */ -}}
{{- define "outrigger.url" -}}
{{- $path := include "outrigger-pod.path" (dict "values" .root.Values "server" .server) -}}
{{- printf "http://%s.%s:%d%s" (include "outrigger.name" .root) .root.Release.Namespace (int .root.Values.service.port) $path -}}
{{- end -}}
