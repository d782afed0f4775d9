{{- define "svclb.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 53 characters, as of a release: the names of objects are longer. */}}
{{- define "svclb.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $whole .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "svclb.serviceAccountName" -}}
{{- default (ternary (include "svclb.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{/* Labels by which objects are selected. They never change, as a DaemonSet's selector cannot. */}}
{{- define "svclb.selectorLabels" -}}
app.kubernetes.io/name: {{ include "svclb.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ ternary "uninstall" "agent" .Values.uninstall }}
{{- end }}

{{- define "svclb.templateLabels" -}}
{{ include "svclb.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: svclb
{{- end }}

{{- define "svclb.labels" -}}
{{ include "svclb.templateLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of the pods. The chart's own win over podLabels, as they are selected. */}}
{{- define "svclb.podLabels" -}}
{{- toYaml (merge (include "svclb.templateLabels" . | fromYaml) .Values.podLabels) }}
{{- end }}

{{- define "svclb.image" -}}
{{- with .Values.image -}}
{{ .repository }}
{{- if or .tag (not .digest) }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* URLs of k8sServiceHost, with commas between. An IPv6 address gets its brackets. */}}
{{- define "svclb.apiServers" -}}
{{- $hosts := kindIs "slice" .Values.k8sServiceHost | ternary .Values.k8sServiceHost (list .Values.k8sServiceHost) }}
{{- $urls := list }}
{{- range compact $hosts }}
{{- $urls = printf "https://%s:%v" (contains ":" . | ternary (printf "[%s]" .) .) $.Values.k8sServicePort | append $urls }}
{{- end }}
{{- join "," $urls }}
{{- end }}

{{/* The port of an address. */}}
{{- define "svclb.port" -}}
{{- splitList ":" . | last }}
{{- end }}

{{/* The address of this node at which a server answers that listens at an address, without the port. */}}
{{- define "svclb.host" -}}
{{- $host := regexReplaceAll ":[0-9]+$" . "" | trimPrefix "[" | trimSuffix "]" }}
{{- get (dict "0.0.0.0" "127.0.0.1" "::" "::1") $host | default $host }}
{{- end }}

{{/* The fields of a pod that all pods of svclb have. */}}
{{- define "svclb.podSpec" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
hostNetwork: true
dnsPolicy: Default
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: 5
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "svclb.securityContext" -}}
runAsUser: 0
runAsGroup: 0
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- end }}
