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

{{/* The number that a quantity stands for. Takes a quantity of the schema's patterns. */}}
{{- define "lever.number" -}}
{{- $text := toString . -}}
{{- $digits := regexFind "^[0-9.]+([eE][+]?[0-9]+)?" $text -}}
{{- $decimal := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $binary := dict "Ki" 0x1p10 "Mi" 0x1p20 "Gi" 0x1p30 "Ti" 0x1p40 "Pi" 0x1p50 "Ei" 0x1p60 -}}
{{- mulf (float64 $digits) (get (merge $decimal $binary) (trimPrefix $digits $text)) -}}
{{- end }}

{{/* The operator would not start with resources of agents that are out of its bounds. */}}
{{- define "lever.agentResources" -}}
{{- $resources := .Values.agent.resources -}}
{{- range $field, $memoryMin := dict "requests" "1Mi" "limits" "64Mi" -}}
{{- range $name, $value := get $resources $field | default dict -}}
{{- $what := printf "agent.resources.%s.%s is %v, expected" $field $name $value -}}
{{- $bounds := ternary (list "1m" "64") (list $memoryMin "16Gi") (eq $name "cpu") -}}
{{- $number := include "lever.number" $value | float64 -}}
{{- $isLess := lt $number (include "lever.number" (first $bounds) | float64) -}}
{{- if or $isLess (gt $number (include "lever.number" (last $bounds) | float64)) -}}
{{- fail (printf "%s from %s to %s" $what (first $bounds) (last $bounds)) -}}
{{- end -}}
{{- if and (eq $name "cpu") (not (regexMatch "^([0-9]+([.][0-9]{1,3})?|[0-9]+m)$" (toString $value))) -}}
{{- fail (printf "%s at most three digits after the point" $what) -}}
{{- end -}}
{{- $request := dig "requests" $name "0" $resources -}}
{{- if and (eq $field "limits") (lt $number (include "lever.number" $request | float64)) -}}
{{- fail (printf "%s at least agent.resources.requests.%s, which is %v" $what $name $request) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $resources -}}
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
