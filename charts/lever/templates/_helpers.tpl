{{/* What pods are selected by: never changes. Takes the component. */}}
{{- define "lever.selector" -}}
app.kubernetes.io/name: lever
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Labels that stay as they are from version to version. Takes (list $ component). */}}
{{- define "lever.constantLabels" -}}
{{- $root := index . 0 -}}
{{ include "lever.selector" (index . 1) }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/part-of: lever
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Takes (list $ component). */}}
{{- define "lever.labels" -}}
{{- $root := index . 0 -}}
{{ include "lever.constantLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Takes (list $ image). */}}
{{- define "lever.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* Where agents, gateways and replicas find the operator. */}}
{{- define "lever.operatorAddress" -}}
lever-operator.{{ .Release.Namespace }}.svc:3837
{{- end }}

{{/* The part of a pod's spec that is about where it runs. Takes (list $ values component). */}}
{{- define "lever.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if kindIs "invalid" $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "lever.selector" (index $ 2) | nindent 8 }}
    # Each ReplicaSet by itself: else the pods of an upgrade are spread against those that they replace.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- else }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
