{{/* One setting's value as the environment takes it: lists with commas, whole numbers without an exponent. */}}
{{- define "sphere-sidecar.text" -}}
{{- if kindIs "slice" . }}
{{- join "," . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}
{{- int64 . }}
{{- else }}
{{- . }}
{{- end }}
{{- end }}

{{/* The prefixes the program serves under, as a YAML list, however the setting is written. */}}
{{- define "sphere-sidecar.mountPrefixes" -}}
{{- $text := include "sphere-sidecar.text" (default (list "/sphere" "/api") .Values.settings.mount_prefixes) }}
{{- regexSplit "\\s*,\\s*" (trim $text) -1 | toYaml }}
{{- end }}

{{/* The settings as environment variables, sorted by name: the data of the ConfigMap. */}}
{{- define "sphere-sidecar.settings" -}}
{{- $values := .Values }}
{{- $settings := dict "port" (include "sphere-sidecar.port" .) "ops_port" (include "sphere-sidecar.opsPort" .) }}
{{- if eq $values.mode "sidecar" }}
{{- $_ := set $settings "host" "127.0.0.1" }}
{{- end }}
{{- with include "sphere-sidecar.trustedProxies" . }}
{{- $_ := set $settings "trusted_proxies" . }}
{{- end }}
{{- range $name, $_ := $values.files }}
{{- $_ := set $settings $name (printf "/etc/sphere-sidecar/files/%s" (trimSuffix "_file" $name)) }}
{{- end }}
{{- range $name, $value := $values.settings }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $settings $name (include "sphere-sidecar.text" $value) }}
{{- end }}
{{- end }}
{{- range $name, $text := $settings }}
SIDECAR_{{ upper $name }}: {{ $text | quote }}
{{- end }}
{{- end }}

{{/* A gateway in the same pod comes from loopback; behind a mesh's proxy everyone does (Istio: 127.0.0.6). */}}
{{- define "sphere-sidecar.trustedProxies" -}}
{{- $proxies := .Values.trustedProxies }}
{{- if and $proxies (or (eq .Values.mode "sidecar") (ne .Values.mesh.kind "none")) }}
{{- $proxies = concat $proxies (list "127.0.0.0/8" "::1/128") | uniq }}
{{- end }}
{{- join "," $proxies }}
{{- end }}

{{/* Seconds, from the start of the pod's end until the drain must be over. */}}
{{- define "sphere-sidecar.drainedAfter" -}}
{{- add .Values.preStopDelaySeconds (ceil .Values.settings.drain_seconds) }}
{{- end }}

{{/* The port at the end of a gRPC target or URL, `default` where it has none; empty for a Unix socket. */}}
{{- define "sphere-sidecar.portOf" -}}
{{- if not (hasPrefix "unix:" .address) }}
{{- regexFind ":[0-9]+(/|,|$)" (regexReplaceAll "^[a-z]+://[^/]*/" .address (hasPrefix "http" .address | ternary "$0" "")) | trimAll ":/," | default .default }}
{{- end }}
{{- end }}
