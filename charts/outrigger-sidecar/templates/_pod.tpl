{{- /*
What the sidecar and the gateway have in common: the configuration document, the container, its volumes.

The same file is in charts/outrigger and charts/outrigger-sidecar: scripts/charts copies it from the latter. Each
template takes one context, a map of plain data:

  values   the values, in the form that both charts share
  mode     "sidecar" or "gateway"
  config   the name of the ConfigMap that holds the configuration
*/ -}}

{{- define "outrigger-pod.image" -}}
{{- with .values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Where the container listens for agents: within the pod, or for others. */ -}}
{{- define "outrigger-pod.bind" -}}
{{- if eq .mode "sidecar" -}}127.0.0.1{{- else -}}{{ .values.bindAddress }}{{- end -}}
{{- end -}}

{{- /* The path of a server, behind the listener's own: takes (dict "values" … "server" …). */ -}}
{{- define "outrigger-pod.path" -}}
{{- dig "basePath" "" .values.listener | trimSuffix "/" }}/servers/{{ .server.name }}/mcp
{{- end -}}

{{- /* The configuration document. `servers` is printed as it is in the values. */ -}}
{{- define "outrigger-pod.document" -}}
{{- $values := .values -}}
{{- $listen := printf "%s:%d" (include "outrigger-pod.bind" .) (int $values.ports.mcp) -}}
{{- $listener := merge (dict "name" "agents" "listen" $listen) $values.listener -}}
{{- $keys := $values.apiKeys | default dict -}}
{{- if $keys.agents -}}
{{- $all := dig "inboundAuth" "apiKeys" list $values.listener -}}
{{- range $agent := $keys.agents -}}
{{- $from := dict "file" (printf "/run/secrets/outrigger/api-keys/%s" $agent) -}}
{{- $all = append $all (dict "name" $agent "header" $keys.header "valueFrom" $from) -}}
{{- end -}}
{{- $listener = set $listener "inboundAuth" (dict "apiKeys" $all) -}}
{{- end -}}
{{- $sessions := deepCopy $values.sessions -}}
{{- if include "outrigger-pod.sessionKeySecret" . -}}
{{- $sessions = set $sessions "key" (dict "valueFrom" (dict "file" "/run/secrets/outrigger/session-key/key")) -}}
{{- end -}}
{{- $observability := deepCopy $values.observability -}}
{{- $metrics := dig "metrics" dict $observability -}}
{{- $metrics = set $metrics "listen" (printf "%s:%d" $values.bindAddress (int $values.ports.admin)) -}}
{{- $observability = set $observability "metrics" $metrics -}}
apiVersion: outrigger.dev/v1alpha1
kind: SidecarConfig
listeners:
{{ toYaml (list $listener) }}
servers:
{{ toYaml $values.servers }}
{{- with $sessions }}
sessions:
  {{- toYaml . | nindent 2 }}
{{- end }}
shutdown:
  {{- toYaml $values.shutdown | nindent 2 }}
readiness:
  {{- toYaml $values.readiness | nindent 2 }}
observability:
  {{- toYaml $observability | nindent 2 }}
control:
  listen: 127.0.0.1:{{ int $values.ports.control }}
{{- end -}}

{{- /*
Changes where a key changed that only a restart takes. Everything else is read again while the pod runs, so it must not
be in the pod's template.
*/ -}}
{{- define "outrigger-pod.restartChecksum" -}}
{{- $values := .values -}}
{{- $log := pick (dig "log" dict $values.observability) "format" -}}
{{- $metrics := dig "metrics" dict $values.observability -}}
{{- $tracing := dig "tracing" dict $values.observability -}}
{{- list (include "outrigger-pod.bind" .) $values.ports $values.bindAddress $values.sessions $values.shutdown $log $metrics $tracing | toJson | sha256sum -}}
{{- end -}}

{{- define "outrigger-pod.sessionKeySecret" -}}
{{- $key := .values.sessionKey -}}
{{- if $key.existingSecret -}}{{ $key.existingSecret }}{{- else if $key.generate -}}{{ .sessionKeySecret }}{{- end -}}
{{- end -}}

{{- /* What the sidecar would refuse at start, refused when it is rendered. */ -}}
{{- define "outrigger-pod.validate" -}}
{{- $values := .values -}}
{{- $named := list -}}
{{- $isOwn := list -}}
{{- range $server := $values.servers -}}
{{- if has $server.name $named -}}{{- fail (printf "\n\nservers: two are named %q" $server.name) -}}{{- end -}}
{{- $named = append $named $server.name -}}
{{- $auth := $server.auth | default dict -}}
{{- $secretHeaders := list -}}
{{- range (dig "headers" "static" list $server) -}}{{- if .valueFrom -}}{{- $secretHeaders = append $secretHeaders .name -}}{{- end -}}{{- end -}}
{{- if or (has $auth.type (list "bearer" "apiKey" "basic")) $auth.anonymous $secretHeaders -}}{{- $isOwn = append $isOwn $server.name -}}{{- end -}}
{{- range $server.endpoints -}}
{{- $isPlain := and (hasPrefix "http://" .url) (not (regexMatch "^http://(localhost|127\\.[0-9.]+|\\[::1\\])([:/]|$)" .url)) -}}
{{- if and $isPlain (not $server.allowPlaintext) -}}
{{- fail (printf "\n\nservers[%s]: %s would send all calls in clear. Use https://, or say allowPlaintext: true" $server.name .url) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $isClosed := or (dig "inboundAuth" "apiKeys" list $values.listener) (dig "agents" list ($values.apiKeys | default dict)) $values.listener.allowUnauthenticated -}}
{{- if and (eq .mode "gateway") $isOwn (not $isClosed) -}}
{{- fail (printf "\n\nEverybody who reaches the Service could use the credential of the server %q. Say who may call:\n  apiKeys.existingSecret and apiKeys.agents (a Secret with a key for each agent), or listener.inboundAuth,\n  or listener.allowUnauthenticated: true, where everybody in the cluster may use that credential." (first $isOwn)) -}}
{{- end -}}
{{- $ports := list (int $values.ports.mcp) (int $values.ports.admin) (int $values.ports.control) -}}
{{- if lt (len (uniq $ports)) 3 -}}
{{- fail (printf "\n\nports: mcp, admin and control are three ports, not %v" $ports) -}}
{{- end -}}
{{- $volumes := list "serviceaccount" "session-key" "api-keys" -}}
{{- range $values.secrets -}}
{{- if has .name $volumes -}}{{- fail (printf "\n\nsecrets: the name %q is taken" .name) -}}{{- end -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- if and $values.caBundle.configMap $values.caBundle.secret -}}
{{- fail "\n\ncaBundle: it comes from a configMap or from a secret, not from both" -}}
{{- end -}}
{{- end -}}

{{- define "outrigger-pod.container" -}}
{{- $values := .values -}}
- name: outrigger
  image: {{ include "outrigger-pod.image" . | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy | quote }}
  {{- if eq .mode "sidecar" }}
  restartPolicy: Always
  {{- end }}
  args: ["run", "--config", "/etc/outrigger/outrigger.yaml"
    {{- range $values.extraArgs }}, {{ . | quote }}{{ end }}]
  {{- with $values.env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    - name: mcp
      containerPort: {{ int $values.ports.mcp }}
    - name: mcp-admin
      containerPort: {{ int $values.ports.admin }}
  startupProbe:
    httpGet:
      path: /startupz
      port: mcp-admin
    {{- toYaml $values.probes.startup | nindent 4 }}
  readinessProbe:
    httpGet:
      path: /readyz
      port: mcp-admin
    {{- toYaml $values.probes.readiness | nindent 4 }}
  livenessProbe:
    httpGet:
      path: /livez
      port: mcp-admin
    {{- toYaml $values.probes.liveness | nindent 4 }}
  {{- with .lifecycle }}
  lifecycle:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  resources:
    {{- toYaml $values.resources | nindent 4 }}
  securityContext:
    {{- toYaml $values.securityContext | nindent 4 }}
  terminationMessagePolicy: FallbackToLogsOnError
  volumeMounts:
    - name: outrigger-config
      mountPath: /etc/outrigger
      readOnly: true
    {{- range $values.secrets }}
    - name: {{ printf "outrigger-secret-%s" .name | quote }}
      mountPath: {{ printf "/run/secrets/outrigger/%s" .name | quote }}
      readOnly: true
    {{- end }}
    {{- if $values.serviceAccountToken.audience }}
    - name: outrigger-serviceaccount
      mountPath: /run/secrets/outrigger/serviceaccount
      readOnly: true
    {{- end }}
    {{- if include "outrigger-pod.sessionKeySecret" . }}
    - name: outrigger-session-key
      mountPath: /run/secrets/outrigger/session-key
      readOnly: true
    {{- end }}
    {{- if dig "agents" list ($values.apiKeys | default dict) }}
    - name: outrigger-api-keys
      mountPath: /run/secrets/outrigger/api-keys
      readOnly: true
    {{- end }}
    {{- if or $values.caBundle.configMap $values.caBundle.secret }}
    - name: outrigger-ca
      mountPath: /etc/outrigger-ca
      readOnly: true
    {{- end }}
{{- end -}}

{{- /*
Directories, never subPath: what is mounted by subPath is never updated. 0444: the files belong to root, we do not run
as root, and no other container mounts them.
*/ -}}
{{- define "outrigger-pod.volumes" -}}
{{- $values := .values -}}
- name: outrigger-config
  configMap:
    name: {{ .config | quote }}
    defaultMode: 0444
    items:
      - key: outrigger.yaml
        path: outrigger.yaml
{{- range $values.secrets }}
- name: {{ printf "outrigger-secret-%s" .name | quote }}
  secret:
    secretName: {{ .secretName | quote }}
    defaultMode: 0444
    {{- with .items }}
    items:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
{{- with $values.serviceAccountToken }}
{{- if .audience }}
- name: outrigger-serviceaccount
  projected:
    defaultMode: 0444
    sources:
      - serviceAccountToken:
          audience: {{ .audience | quote }}
          expirationSeconds: {{ int .expirationSeconds }}
          path: token
{{- end }}
{{- end }}
{{- with include "outrigger-pod.sessionKeySecret" . }}
- name: outrigger-session-key
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0444
    items:
      - key: {{ $values.sessionKey.key | quote }}
        path: key
{{- end }}
{{- with $values.apiKeys }}
{{- if .agents }}
- name: outrigger-api-keys
  secret:
    secretName: {{ .existingSecret | required "\n\napiKeys.existingSecret: the Secret that holds the keys of apiKeys.agents" | quote }}
    # All keys of the Secret, so that another agent does not change the pod.
    defaultMode: 0444
{{- end }}
{{- end }}
{{- with $values.caBundle }}
{{- if or .configMap .secret }}
- name: outrigger-ca
  {{- if .configMap }}
  configMap:
    name: {{ .configMap | quote }}
  {{- else }}
  secret:
    secretName: {{ .secret | quote }}
  {{- end }}
    defaultMode: 0444
    items:
      - key: {{ .key | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- end -}}
