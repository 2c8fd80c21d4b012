{{- define "tagstream.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Of a list of the root and a part ("" for the workers): the name of the part's objects. */}}
{{- define "tagstream.partname" -}}
{{- list (include "tagstream.fullname" (first .)) (last .) | compact | join "-" }}
{{- end }}

{{/* The label that selectors choose pods by. Its value is unique in a namespace, and is the job of the alerts. */}}
{{- define "tagstream.selector" -}}
app.kubernetes.io/name: {{ include "tagstream.partname" . }}
{{- end }}

{{- define "tagstream.metadata" -}}
{{- $root := first . -}}
name: {{ include "tagstream.partname" . }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "tagstream.labels" . | nindent 2 }}
{{- end }}

{{- define "tagstream.labels" -}}
{{- $root := first . -}}
{{ include "tagstream.selector" . }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* `worker` and `keda`, with what they leave open from the device's part of `devices`. As YAML. */}}
{{- define "tagstream.values" -}}
{{- pick .Values "worker" "keda" | deepCopy | mustMergeOverwrite (get .Values.devices .Values.device | deepCopy) | toYaml }}
{{- end }}

{{- define "tagstream.image" -}}
{{- with .Values.image -}}
{{- $tag := default (printf "%s-%s" $.Chart.AppVersion (eq $.Values.device "gpu" | ternary "cuda" "cpu")) .tag -}}
{{- .digest | empty | ternary (printf "%s:%s" .repository $tag) (printf "%s@%s" .repository .digest) -}}
{{- end }}
{{- end }}

{{/* Name, image and rights of a container, of a list of the root and its name. */}}
{{- define "tagstream.container" -}}
{{- $root := first . -}}
name: {{ last . }}
image: {{ include "tagstream.image" $root | quote }}
{{- with $root.Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
securityContext:
  {{- toYaml $root.Values.securityContext | nindent 2 }}
{{- end }}

{{- define "tagstream.accountname" -}}
{{- $root := index . 0 }}{{ $part := index . 1 }}{{ $account := index . 2 -}}
{{- $account.create | ternary (default (include "tagstream.partname" (list $root $part)) $account.name) (default "default" $account.name) -}}
{{- end }}

{{/* A ServiceAccount without a token, as no pod calls the Kubernetes API. Of a list of the root, the part and its values. */}}
{{- define "tagstream.account" -}}
{{- $root := index . 0 }}{{ $part := index . 1 }}{{ $account := index . 2 -}}
{{- if $account.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "tagstream.accountname" . }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "tagstream.labels" (list $root $part) | nindent 4 }}
  {{- with $account.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{/* The part of a pod's spec that is the same everywhere, of a list of the root, the part and the part's values. */}}
{{- define "tagstream.pod" -}}
{{- $root := index . 0 }}{{ $part := index . 1 }}{{ $values := index . 2 -}}
serviceAccountName: {{ include "tagstream.accountname" (list $root $part $values.serviceAccount) }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- range $name := list "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" }}
{{- with get $values $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a Deployment's pods. A changed setting or login changes them, and so starts new pods. */}}
{{- define "tagstream.podMetadata" -}}
{{- $root := index . 0 }}{{ $part := index . 1 }}{{ $values := index . 2 -}}
labels:
  {{- include "tagstream.selector" (list $root $part) | nindent 2 }}
  app.kubernetes.io/component: {{ default "worker" $part }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ default "worker" $part }}
  checksum/settings: {{ include "tagstream.settings" $root | sha256sum }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "tagstream.dns" -}}
- to:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: kube-system
      podSelector:
        matchLabels:
          k8s-app: kube-dns
  ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end }}
