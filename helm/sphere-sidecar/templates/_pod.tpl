{{/*
What a gateway's chart includes in its pod in sidecar mode, each with this chart's own context:
  {{ include "sphere-sidecar.containers" (index .Subcharts "sphere-sidecar") }}
containers and initContainers give a list of one or nothing, by sidecar.native; include both.
*/}}
{{- define "sphere-sidecar.containers" -}}
{{- if not (and (eq .Values.mode "sidecar") .Values.sidecar.native) }}
- {{ include "sphere-sidecar.container" . | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- define "sphere-sidecar.initContainers" -}}
{{- if and (eq .Values.mode "sidecar") .Values.sidecar.native }}
- {{ include "sphere-sidecar.container" . | nindent 2 | trim }}
  restartPolicy: Always
{{- end }}
{{- end }}

{{- define "sphere-sidecar.container" -}}
name: sphere-sidecar
image: {{ include "sphere-sidecar.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
ports:
  - name: sidecar-ws
    containerPort: {{ include "sphere-sidecar.port" . }}
  - name: sidecar-metrics
    containerPort: {{ include "sphere-sidecar.opsPort" . }}
envFrom:
  - configMapRef:
      name: {{ include "sphere-sidecar.fullname" . }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
startupProbe:
  httpGet: {path: /livez, port: sidecar-metrics}
  {{- toYaml .Values.probes.startup | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: sidecar-metrics}
  {{- toYaml .Values.probes.readiness | nindent 2 }}
livenessProbe:
  httpGet: {path: /livez, port: sidecar-metrics}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
lifecycle:
  preStop:
    exec:
      {{- if eq .Values.mode "sidecar" }}
      # Before SIGTERM: a native sidecar gets that only after the gateway, the clients' way out, has gone.
      command: [python, /app/image/ops.py, drain, {{ .Values.preStopDelaySeconds | quote }}]
      {{- else }}
      command: [sleep, {{ .Values.preStopDelaySeconds | quote }}]
      {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- if or .Values.files .Values.extraVolumeMounts }}
volumeMounts:
  {{- if .Values.files }}
  - name: sphere-sidecar-files
    mountPath: /etc/sphere-sidecar/files
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* One projected volume and no subPath, because those files alone follow a rotated Secret. */}}
{{- define "sphere-sidecar.volumes" -}}
{{- if .Values.files }}
- name: sphere-sidecar-files
  projected:
    defaultMode: 0444
    sources:
      {{- range $name, $from := .Values.files }}
      - {{ empty $from.secret | ternary "configMap" "secret" }}:
          name: {{ default $from.configMap $from.secret }}
          items:
            - key: {{ $from.key | quote }}
              path: {{ trimSuffix "_file" $name }}
      {{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}

{{/* A change of settings restarts the pod; the mesh's proxy outlives the drain. */}}
{{- define "sphere-sidecar.podAnnotations" -}}
sphere-sidecar/settings: {{ include "sphere-sidecar.settings" . | sha256sum }}
{{- if eq .Values.mesh.kind "istio" }}
proxy.istio.io/config: |
  terminationDrainDuration: {{ add (include "sphere-sidecar.drainedAfter" .) 5 }}s
traffic.sidecar.istio.io/excludeInboundPorts: {{ include "sphere-sidecar.opsPort" . | quote }}
{{- else if eq .Values.mesh.kind "linkerd" }}
config.alpha.linkerd.io/proxy-wait-before-exit-seconds: {{ add (include "sphere-sidecar.drainedAfter" .) 5 | quote }}
config.linkerd.io/skip-inbound-ports: {{ include "sphere-sidecar.opsPort" . | quote }}
{{- end }}
{{- end }}

{{/*
The lifecycle of the gateway's container: it stays until the calls through it were told to come back elsewhere.
3 s more than the drain, because the sidecar's own hook may start later than this one.
*/}}
{{- define "sphere-sidecar.gatewayLifecycle" -}}
preStop:
  {{- $post := dict "wget" "wget -q -O /dev/null --post-data=" "curl" "curl -s -o /dev/null -X POST" }}
  {{- if eq .Values.gateway.preStop "sleep" }}
  sleep:
    seconds: {{ add (include "sphere-sidecar.drainedAfter" .) 3 }}
  {{- else }}
  exec:
    command:
      - sh
      - -c
      - sleep {{ .Values.preStopDelaySeconds }}; {{ get $post .Values.gateway.preStop }} http://127.0.0.1:{{ include "sphere-sidecar.opsPort" . }}/drain; sleep {{ add (ceil .Values.settings.drain_seconds) 3 }}
  {{- end }}
{{- end }}

{{/* Seconds the whole pod is given: the way to the drain, the drain, the gateway's own end, and some air. */}}
{{- define "sphere-sidecar.terminationGracePeriodSeconds" -}}
{{- $gateway := eq .Values.mode "sidecar" | ternary .Values.gateway.terminationSeconds 0 }}
{{- add (include "sphere-sidecar.drainedAfter" .) $gateway 10 }}
{{- end }}

{{/* Egress rules of a NetworkPolicy, for ours and for a gateway's that already has one. */}}
{{- define "sphere-sidecar.egressRules" -}}
{{- $policy := .Values.networkPolicy }}
{{- $settings := .Values.settings }}
- to:
    {{- toYaml $policy.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- $targets := list (dict "peers" $policy.chat "address" $settings.membership_target "default" "443") }}
{{- with $settings.jwt_jwks_url }}
{{- $targets = append $targets (dict "peers" $policy.jwks "address" . "default" (hasPrefix "https:" . | ternary "443" "80")) }}
{{- end }}
{{- with $settings.bus_url }}
{{- $first := first (kindIs "slice" . | ternary . (splitList "," (toString .))) }}{{/* one cluster listens on one port */}}
{{- $targets = append $targets (dict "peers" $policy.bus "address" $first "default" "4222") }}
{{- end }}
{{- range $targets }}
{{- $ports := .peers.ports | default (include "sphere-sidecar.portOf" . | list | compact) }}
{{- if $ports }}
- {{ with .peers.to -}}
  to:
    {{- toYaml . | nindent 4 }}
  {{ end -}}
  ports:
    {{- range $ports }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end }}
{{- end }}
{{- if eq .Values.mesh.kind "istio" }}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: istio-system}}
  ports:
    - {protocol: TCP, port: 15012}
{{- else if eq .Values.mesh.kind "linkerd" }}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: linkerd}}
{{- end }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
