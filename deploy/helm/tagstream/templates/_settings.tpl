{{/*
The ConfigMap's data, by name. Later ones go before earlier ones: what the pods' mounts and ports fix, what the Kafka login,
web identity and OTLP need, the device's, and the user's own.
*/}}
{{- define "tagstream.settings" -}}
{{- $fixed := dict
  "TAGSTREAM_STATE_DIR" "/var/lib/tagstream"
  "TAGSTREAM_HTTP_PORT" "8080"
  "TAGSTREAM_S3_ACCESS_KEY_FILE" "/etc/tagstream/secrets/s3-access-key"
  "TAGSTREAM_S3_SECRET_KEY_FILE" "/etc/tagstream/secrets/s3-secret-key"
  "TAGSTREAM_REDIS_URL_FILE" "/etc/tagstream/secrets/redis-url"
  "TAGSTREAM_CACHE_KEY_FILE" "/etc/tagstream/secrets/cache-key" }}
{{- $added := dict }}
{{- if .Values.webIdentity.enabled }}
{{- $added = dict
  "TAGSTREAM_S3_ACCESS_KEY_FILE" ""
  "TAGSTREAM_S3_SECRET_KEY_FILE" ""
  "AWS_WEB_IDENTITY_TOKEN_FILE" "/etc/tagstream/identity/token" }}
{{- end }}
{{- $traced := dict }}
{{- if .Values.otlp.enabled }}
{{- $traced = dict
  "OTEL_EXPORTER_OTLP_ENDPOINT" .Values.otlp.endpoint
  "OTEL_SERVICE_NAME" (include "tagstream.fullname" .)
  "OTEL_TRACES_SAMPLER" "parentbased_traceidratio"
  "OTEL_TRACES_SAMPLER_ARG" .Values.otlp.share }}
{{- end }}
{{- $login := (include "tagstream.kafka" . | fromYaml).settings }}
{{- $device := (get .Values.devices .Values.device).settings }}
{{- $all := dict }}
{{- range list $fixed $login $added $traced $device .Values.settings }}
{{- range $name, $value := . }}
{{- $_ := kindIs "string" $value | ternary $value (toJson $value) | set $all $name }}
{{- end }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{/*
What the login at Kafka needs, as YAML: settings, environment variables by key of the Secret, fields of KEDA's trigger, and
the spec of KEDA's TriggerAuthentication, whose parameters are by key of the Secret as well.
*/}}
{{- define "tagstream.kafka" -}}
{{- if eq .Values.kafka.login "sasl-tls" -}}
settings:
  TAGSTREAM_KAFKA_SECURITY_PROTOCOL: SASL_SSL
  TAGSTREAM_KAFKA_SASL_MECHANISM: SCRAM-SHA-512
  TAGSTREAM_KAFKA_PASSWORD_FILE: /etc/tagstream/secrets/kafka-password
  TAGSTREAM_KAFKA_TLS_CA: /etc/tagstream/secrets/kafka-ca
env:
  TAGSTREAM_KAFKA_USER: kafka-user
trigger:
  tls: enable
  sasl: scram_sha512
parameters:
  username: kafka-user
  password: kafka-password
  ca: kafka-ca
{{- else if eq .Values.kafka.login "mtls" -}}
settings:
  TAGSTREAM_KAFKA_SECURITY_PROTOCOL: SSL
  TAGSTREAM_KAFKA_TLS_CA: /etc/tagstream/secrets/kafka-ca
  TAGSTREAM_KAFKA_TLS_CERT: /etc/tagstream/secrets/kafka-cert
  TAGSTREAM_KAFKA_TLS_KEY: /etc/tagstream/secrets/kafka-key
trigger:
  tls: enable
parameters:
  ca: kafka-ca
  cert: kafka-cert
  key: kafka-key
{{- else if eq .Values.kafka.login "oauth" -}}
settings:
  TAGSTREAM_KAFKA_SECURITY_PROTOCOL: SASL_SSL
  TAGSTREAM_KAFKA_SASL_MECHANISM: OAUTHBEARER
  TAGSTREAM_KAFKA_PASSWORD_FILE: /etc/tagstream/secrets/kafka-password
  TAGSTREAM_KAFKA_TLS_CA: /etc/tagstream/secrets/kafka-ca
env:
  TAGSTREAM_KAFKA_USER: kafka-user
  TAGSTREAM_KAFKA_TOKEN_ENDPOINT: kafka-token-endpoint
  TAGSTREAM_KAFKA_TOKEN_SCOPE: kafka-token-scope
trigger:
  tls: enable
  sasl: oauthbearer
parameters:
  username: kafka-user
  password: kafka-password
  oauthTokenEndpointUri: kafka-token-endpoint
  scopes: kafka-token-scope
  ca: kafka-ca
{{- else if eq .Values.kafka.login "msk-iam" -}}
settings:
  TAGSTREAM_KAFKA_SECURITY_PROTOCOL: SASL_SSL
  TAGSTREAM_KAFKA_SASL_MECHANISM: AWS_MSK_IAM
  AWS_REGION: {{ .Values.kafka.awsRegion }}
trigger:
  tls: enable
  sasl: oauthbearer
  saslTokenProvider: aws_msk_iam
  awsRegion: {{ .Values.kafka.awsRegion }}
{{- end }}
{{- end }}

{{/* Settings of the workers alone, taken away from the index and the topics job, and the Kafka login, if there is one. */}}
{{- define "tagstream.kafkaOnlyEnv" -}}
{{- range list "TAGSTREAM_S3_ACCESS_KEY_FILE" "TAGSTREAM_S3_SECRET_KEY_FILE" "TAGSTREAM_REDIS_URL_FILE" "TAGSTREAM_CACHE_KEY_FILE" "TAGSTREAM_CAPTION_KEY_FILE" "AWS_WEB_IDENTITY_TOKEN_FILE" }}
- name: {{ . }}
  value: ""
{{- end }}
{{- range $name, $key := dict "TAGSTREAM_KAFKA_USER" "kafka-user" "TAGSTREAM_KAFKA_TOKEN_ENDPOINT" "kafka-token-endpoint" "TAGSTREAM_KAFKA_TOKEN_SCOPE" "kafka-token-scope" }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $.Values.existingSecret }}
      key: {{ $key }}
      optional: true
{{- end }}
{{- end }}

{{/* Of the workers' Secret the login to Kafka alone; keys that it does not have are left out. */}}
{{- define "tagstream.kafkaVolume" -}}
- name: kafka
  secret:
    secretName: {{ .Values.existingSecret }}
    defaultMode: 0440
    optional: true
    items:
      {{- range list "kafka-password" "kafka-ca" "kafka-cert" "kafka-key" }}
      - key: {{ . }}
        path: {{ . }}
      {{- end }}
{{- end }}

{{/* With web identity: a token for the storage's token service alone, whose audience Kubernetes' API refuses. */}}
{{- define "tagstream.identityVolume" -}}
- name: identity
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          audience: sts.tagstream
          expirationSeconds: 3600
          path: token
{{- end }}
