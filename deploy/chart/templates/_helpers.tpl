{{/* Labels that never change, for selectors. The argument is a dict: component, root. */}}
{{- define "tunnel.selector" -}}
app.kubernetes.io/name: tunnel-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "tunnel.labels" -}}
{{ include "tunnel.selector" . }}
app.kubernetes.io/part-of: tunnel
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{- define "tunnel.image" -}}
{{ .root.Values.image.repository }}/tunnel-{{ .component }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "tunnel.leaseNamespace" -}}
{{ .Values.leases.namespace | default .Release.Namespace }}
{{- end }}

{{/* What Pod Security `restricted` asks of a pod. */}}
{{- define "tunnel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
# With a user and without fsGroup the kubelet gives projected tokens to that user.
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tunnel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* On the pod network the new agent is connected before the old one drains. On the host's network both would need the
same ports, so the node is without an agent for a moment. */}}
{{- define "tunnel.updateStrategy" -}}
{{- with .Values.agent.updateStrategy -}}
{{- toYaml . }}
{{- else -}}
type: RollingUpdate
rollingUpdate:
  {{- if .Values.agent.hostNetwork }}
  maxUnavailable: 10%
  {{- else }}
  maxSurge: 10%
  maxUnavailable: 0
  {{- end }}
{{- end }}
{{- end }}

{{/* A token proves its node. A certificate may name anybody. */}}
{{- define "tunnel.identityMode" -}}
{{- .Values.server.identityMode | default (ternary "strict" "audit" .Values.agent.presentToken) }}
{{- end }}

{{- define "tunnel.routesFrom" -}}
{{- .Values.server.routesFrom | default (ternary "nodes" "claims" .Values.agent.presentToken) }}
{{- end }}

{{- define "tunnel.identifiers" -}}
{{- if .Values.agent.identifiers -}}
{{- .Values.agent.identifiers }}
{{- else if or (ne (include "tunnel.routesFrom" .) "nodes") (eq .Values.server.kind "External") -}}
host=$(NODE_NAME)&ipv4=$(NODE_IP)
{{- end }}
{{- end }}

{{/* The arguments that servers of every kind have. */}}
{{- define "tunnel.serverArgs" -}}
- --agent-port={{ .Values.server.agentPort }}
- --agent-namespace={{ .Values.server.agentNamespace | default .Release.Namespace }}
- --agent-service-account={{ .Values.server.agentServiceAccount | default "tunnel-agent" }}
- --authentication-audience={{ .Values.token.audience }}
- --proxy-strategies={{ .Values.server.strategies }}
- --identity-mode={{ include "tunnel.identityMode" . }}
- --routes-from={{ include "tunnel.routesFrom" . }}
- --expected-nodes={{ .Values.server.expectedNodes }}
{{- if .Values.leases.publish }}
- --enable-lease-controller
- --lease-namespace={{ include "tunnel.leaseNamespace" . }}
{{- end }}
- --policy-file={{ eq .Values.server.kind "StaticPod" | ternary .Values.server.staticPod.configDirectory "/run/tunnel/policy" }}/policy.yaml
- --admin-port={{ .Values.server.adminPort }}
- --admin-socket=/run/tunnel-server/admin.sock
- --health-port={{ .Values.server.healthPort }}
- --graceful-shutdown-timeout={{ .Values.server.gracePeriodSeconds }}s
{{- end }}

{{/* The subject of the server's rights. Empty for a Deployment that serves another cluster. */}}
{{- define "tunnel.serverSubject" -}}
{{- if ne .Values.server.kind "Deployment" -}}
- kind: User
  name: {{ .Values.server.user }}
  apiGroup: rbac.authorization.k8s.io
{{- else if not .Values.server.deployment.kubeconfigSecret -}}
- kind: ServiceAccount
  name: tunnel-server
  namespace: {{ .Release.Namespace }}
{{- end }}
{{- end }}

{{/* Combinations that would install and not work. */}}
{{- define "tunnel.check" -}}
{{- $agent := .Values.agent }}
{{- if and $agent.enabled (not $agent.servers) }}
{{- fail "agent.servers is empty: name the tunnel servers, for example --set agent.servers={cp-1.example}" }}
{{- end }}
{{- if and $agent.enabled (not $agent.presentToken) (not $agent.certificateSecret) }}
{{- fail "agents have neither a token nor a certificate: set agent.presentToken or agent.certificateSecret" }}
{{- end }}
{{- if and (eq (include "tunnel.routesFrom" .) "nodes") (not (contains "destCIDR" .Values.server.strategies)) }}
{{- fail "server.routesFrom nodes makes routes for pod networks: server.strategies needs destCIDR" }}
{{- end }}
{{- if and (eq (include "tunnel.routesFrom" .) "nodes") (not (contains "destHost" .Values.server.strategies)) }}
{{- fail "server.routesFrom nodes makes routes for addresses of nodes: server.strategies needs destHost" }}
{{- end }}
{{- if $agent.hostNetwork }}
{{- if .Values.networkPolicy.enabled }}
{{- fail "networkPolicy.enabled has no effect with agent.hostNetwork: network policies do not apply to the host's network" }}
{{- end }}
{{- if .Values.serviceMonitor.enabled }}
{{- fail "serviceMonitor.enabled cannot work with agent.hostNetwork: the health listener binds 127.0.0.1 there" }}
{{- end }}
{{- with $agent.updateStrategy.rollingUpdate }}
{{- if .maxSurge }}
{{- fail "agent.updateStrategy with maxSurge cannot work with agent.hostNetwork: two agents cannot bind one port" }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (eq .Values.server.kind "StaticPod") (hasPrefix "127." .Values.server.staticPod.healthBindAddress) }}
{{- fail "serviceMonitor.enabled cannot reach the servers: set server.staticPod.healthBindAddress to an address of the node" }}
{{- end }}
{{- end }}
