{{- /*
Names are fixed (fairway-operator, fairway-authority, fairway-relay): the
authority's and the relays' identities are exactly namespace and ServiceAccount
of this installation, so there is one installation a namespace.
*/}}

{{- define "fairway.labels" -}}
{{ include "fairway.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "fairway.selector" -}}
app.kubernetes.io/name: fairway
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "fairway.image" -}}
{{ printf "%s/fairway-%s:%s" .root.Values.image.registry .name .root.Values.image.tag }}
{{- end }}

{{- /* What every pod says of itself; passes the Pod Security Standard "restricted". */}}
{{- define "fairway.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "fairway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "fairway.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ . }}}
  periodSeconds: 10
readinessProbe:
  httpGet: {path: /readyz, port: {{ . }}}
  periodSeconds: 5
{{- end }}

{{- /* Environment of every process. */}}
{{- define "fairway.env" -}}
- name: FAIRWAY_TRUST_DOMAIN
  value: {{ .Values.trustDomain | quote }}
- name: FAIRWAY_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: FAIRWAY_LOG_LEVEL
  value: {{ .Values.log.level | quote }}
{{- with .Values.tracing.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- /* Where the pod runs. */}}
{{- define "fairway.scheduling" -}}
{{- $values := index .root.Values .component -}}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "fairway.selector" . | nindent 6 }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- /* One pod of a component may be evicted at a time. */}}
{{- define "fairway.disruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: fairway-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "fairway.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "fairway.selector" . | nindent 6 }}
{{- end }}
