{{/* Labels by which pods of a component are selected: (dict "root" $ "component" "nodes"). */}}
{{- define "verl-agent-env.selector" -}}
app.kubernetes.io/name: verl-agent-env
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object. */}}
{{- define "verl-agent-env.labels" -}}
{{ include "verl-agent-env.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{- define "verl-agent-env.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "verl-agent-env.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Pods of a component on different machines, if there are enough. */}}
{{- define "verl-agent-env.spread" -}}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "verl-agent-env.selector" . | nindent 14 }}
{{- end }}

{{- define "verl-agent-env.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Nodes that are there from the beginning. */}}
{{- define "verl-agent-env.plannedNodes" -}}
{{- ternary .Values.autoscaling.minReplicas .Values.nodes.replicas .Values.autoscaling.enabled | int -}}
{{- end }}

{{/* The URL of a Redis: values of redis, and its address. Secrets are not in it: it names files, see verl-agent-env.redisFiles. */}}
{{- define "verl-agent-env.redisUrl" -}}
{{- $url := last . -}}
{{- $options := list -}}
{{- with first . -}}
{{- if .passwordSecret.name }}{{ $options = append $options "password_file=/run/redis/password" }}{{ end -}}
{{- if .passwordSecret.usernameKey }}{{ $options = append $options "username_file=/run/redis/username" }}{{ end -}}
{{- if and .sentinelPasswordSecret.name (contains "+sentinel://" $url) }}{{ $options = append $options "sentinel_password_file=/run/redis/sentinel-password" }}{{ end -}}
{{- $isTls := hasPrefix "rediss" $url -}}
{{- if and .caSecret.name $isTls }}{{ $options = append $options "ssl_ca_certs=/run/redis/ca.crt" }}{{ end -}}
{{- if and .clientCertSecret.name $isTls }}{{ $options = concat $options (list "ssl_certfile=/run/redis/tls.crt" "ssl_keyfile=/run/redis/tls.key") }}{{ end -}}
{{- end -}}
{{- $url }}{{ if $options }}{{ ternary "&" "?" (contains "?" $url) }}{{ join "&" $options }}{{ end -}}
{{- end }}

{{/* The variables by which nodes and the watcher find Redis. */}}
{{- define "verl-agent-env.redisVariables" -}}
{{- $url := .Values.redis.url | default (printf "redis://%s-redis:6379/0" .Release.Name) -}}
- name: VERL_AGENT_ENV_REDIS
  value: {{ include "verl-agent-env.redisUrl" (list .Values.redis $url) | quote }}
{{- with .Values.redis.logs }}
{{- $logs := list }}
{{- range . }}
{{- $logs = append $logs (include "verl-agent-env.redisUrl" (list $.Values.redis .)) }}
{{- end }}
- name: VERL_AGENT_ENV_REDIS_LOGS
  value: {{ toRawJson $logs | quote }}
{{- end }}
- {name: VERL_AGENT_ENV_NAMESPACE, value: {{ .Values.redis.namespace | quote }}}
{{- end }}

{{/* Sources of the volume /run/redis; empty if there is nothing secret. */}}
{{- define "verl-agent-env.redisFiles" -}}
{{- with .Values.redis }}
{{- with .passwordSecret }}
{{- if .name }}
- secret:
    name: {{ .name }}
    items:
      - {key: {{ .key }}, path: password}
      {{- if .usernameKey }}
      - {key: {{ .usernameKey }}, path: username}
      {{- end }}
{{- end }}
{{- end }}
{{- with .sentinelPasswordSecret }}
{{- if .name }}
- secret:
    name: {{ .name }}
    items:
      - {key: {{ .key }}, path: sentinel-password}
{{- end }}
{{- end }}
{{- with .caSecret }}
{{- if .name }}
- secret:
    name: {{ .name }}
    items:
      - {key: {{ .key }}, path: ca.crt}
{{- end }}
{{- end }}
{{- with .clientCertSecret }}
{{- if .name }}
- secret:
    name: {{ .name }}
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Names that nodes are called by, with commas between them; empty for all. */}}
{{- define "verl-agent-env.allowedHosts" -}}
{{- if .Values.allowedHosts -}}
{{- $service := printf "%s-nginx" .Release.Name -}}
{{- $hosts := list $service -}}
{{- range list "" ".svc" ".svc.cluster.local" }}{{ $hosts = append $hosts (printf "%s.%s%s" $service $.Release.Namespace .) }}{{ end -}}
{{- if .Values.ingress.enabled }}{{ $hosts = append $hosts .Values.ingress.host }}{{ end -}}
{{- concat $hosts .Values.allowedHosts | uniq | join "," -}}
{{- end -}}
{{- end }}
