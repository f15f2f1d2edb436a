{{/* Refuses values that would render and then not work, all at once and in words. */}}
{{- define "sphere-sidecar.checks" -}}
{{- $v := .Values }}
{{- $kube := .Capabilities.KubeVersion.Version }}
{{- $problems := list }}
{{- if not $v.image.repository }}
{{- $problems = append $problems "image.repository: required, where your build of the image was pushed" }}
{{- end }}
{{- if not $v.settings.jwt_audiences }}
{{- $problems = append $problems "settings.jwt_audiences: required, the audiences your tokens are minted for" }}
{{- end }}
{{- if not $v.settings.membership_target }}
{{- $problems = append $problems "settings.membership_target: required, the chat service, such as dns:///chat:5001" }}
{{- end }}
{{- $keys := list $v.files.jwt_public_key_file $v.files.jwt_jwks_file $v.settings.jwt_jwks_url | compact }}
{{- if ne (len $keys) 1 }}
{{- $problems = append $problems (printf "files.jwt_public_key_file, files.jwt_jwks_file, settings.jwt_jwks_url: exactly one is required, %d are set" (len $keys)) }}
{{- end }}
{{- range $name, $from := $v.files }}
{{- if eq (empty $from.secret) (empty $from.configMap) }}
{{- $problems = append $problems (printf "files.%s: exactly one of secret and configMap is required" $name) }}
{{- end }}
{{- end }}
{{- if ne (empty $v.files.membership_tls_cert_file) (empty $v.files.membership_tls_key_file) }}
{{- $problems = append $problems "files.membership_tls_cert_file, files.membership_tls_key_file: both or neither" }}
{{- end }}
{{- if and (eq $v.mode "standalone") (not $v.trustedProxies) }}
{{- $problems = append $problems "trustedProxies: required in standalone mode, the CIDRs of your gateway and the proxies before it; without them everyone shares the gateway's address and its limits" }}
{{- end }}
{{- if not (or $v.settings.bus_url $v.allowSplitRooms) }}
{{- $why := "without a bus (settings.bus_url) people of one room on different pods do not see each other; allowSplitRooms: true accepts that" }}
{{- if eq $v.mode "sidecar" }}
{{- $problems = append $problems (printf "mode: sidecar: %s" $why) }}
{{- else if $v.autoscaling.enabled }}
{{- $problems = append $problems (printf "autoscaling.enabled: %s" $why) }}
{{- else if gt (int $v.replicas) 1 }}
{{- $problems = append $problems (printf "replicas: %d: %s" (int $v.replicas) $why) }}
{{- end }}
{{- end }}
{{- if and $v.autoscaling.enabled (lt (int $v.autoscaling.maxReplicas) (int $v.autoscaling.minReplicas)) }}
{{- $problems = append $problems "autoscaling.maxReplicas: less than minReplicas" }}
{{- end }}
{{- if and $v.autoscaling.enabled (not $v.autoscaling.cpuPercent) (not $v.autoscaling.connections) }}
{{- $problems = append $problems "autoscaling: cpuPercent or connections must be more than 0" }}
{{- end }}
{{- if eq (include "sphere-sidecar.port" .) (include "sphere-sidecar.opsPort" .) }}
{{- $problems = append $problems "ports: signaling and ops must differ" }}
{{- end }}
{{- range $v.extraEnv }}
{{- if hasPrefix "SIDECAR_" .name }}
{{- $problems = append $problems (printf "extraEnv: %s: settings belong in settings, files and ports" .name) }}
{{- end }}
{{- end }}
{{- if eq $v.mode "sidecar" }}
{{- if and $v.sidecar.native (semverCompare "<1.29.0-0" $kube) }}
{{- $problems = append $problems (printf "sidecar.native: native sidecar containers need Kubernetes 1.29 or newer, this is %s" $kube) }}
{{- end }}
{{- if and (eq $v.gateway.preStop "sleep") (semverCompare "<1.30.0-0" $kube) }}
{{- $problems = append $problems (printf "gateway.preStop: sleep needs Kubernetes 1.30 or newer, this is %s; use wget or curl" $kube) }}
{{- end }}
{{- if ne $v.route.kind "none" }}
{{- $problems = append $problems (printf "route.kind: %s: in sidecar mode the gateway itself routes to 127.0.0.1:%s" $v.route.kind (include "sphere-sidecar.port" .)) }}
{{- end }}
{{- if eq $v.monitoring.monitor "ServiceMonitor" }}
{{- $problems = append $problems "monitoring.monitor: ServiceMonitor: there is no Service in sidecar mode; use PodMonitor" }}
{{- end }}
{{- if and (eq $v.monitoring.monitor "PodMonitor") (not $v.gateway.podLabels) }}
{{- $problems = append $problems "gateway.podLabels: required for a PodMonitor in sidecar mode, the labels of the gateway's pods" }}
{{- end }}
{{- end }}
{{- $problems = concat $problems (include "sphere-sidecar.routeChecks" . | fromYamlArray) }}
{{- if $problems }}
{{- fail (printf "\n\nThese values cannot work:\n  - %s\n" (join "\n  - " $problems)) }}
{{- end }}
{{- end }}

{{- define "sphere-sidecar.routeChecks" -}}
{{- $v := .Values }}
{{- $route := $v.route }}
{{- $problems := list }}
{{- if ne $route.kind "none" }}
{{- if not $route.hosts }}
{{- $problems = append $problems "route.hosts: required with a route" }}
{{- end }}
{{- $arrives := default $route.prefix $route.rewritePrefix }}
{{- $served := include "sphere-sidecar.mountPrefixes" . | fromYamlArray }}
{{- if not (has $arrives $served) }}
{{- $problems = append $problems (printf "settings.mount_prefixes: %s: requests arrive under %s, which would answer 404" (join "," $served) $arrives) }}
{{- end }}
{{- end }}
{{- if and (eq $route.kind "HTTPRoute") (not $route.parentRefs) }}
{{- $problems = append $problems "route.parentRefs: required for an HTTPRoute" }}
{{- end }}
{{- if and (eq $route.kind "VirtualService") (not $route.gateways) }}
{{- $problems = append $problems "route.gateways: required for a VirtualService" }}
{{- end }}
{{- if and (eq $route.kind "VirtualService") $route.roomAffinity (not $route.gatewaySelector.labels) }}
{{- $problems = append $problems "route.gatewaySelector.labels: required for room affinity, the labels of the Istio gateway's pods" }}
{{- end }}
{{- if and $route.roomAffinity (has $route.kind (list "none" "HTTPRoute")) }}
{{- $problems = append $problems (printf "route.roomAffinity: nothing in %s hashes the path; use VirtualService or Ingress" $route.kind) }}
{{- end }}
{{- if and $route.upgradesOnly (eq $route.kind "Ingress") }}
{{- $problems = append $problems "route.upgradesOnly: an Ingress cannot tell upgrades from other requests" }}
{{- end }}
{{- toYaml $problems }}
{{- end }}
