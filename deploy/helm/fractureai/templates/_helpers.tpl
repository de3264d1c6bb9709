{{- define "fractureai.name" -}}
{{- printf "%s-%s" .root.Release.Name .part | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "fractureai.selector" -}}
app.kubernetes.io/name: fractureai
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "fractureai.labels" -}}
{{ include "fractureai.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- define "fractureai.image" -}}
{{ .root.Values.image.registry }}fractureai-{{ .image }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end -}}

{{- /* What every pod is allowed: the restricted standard */ -}}
{{- define "fractureai.podSecurity" -}}
serviceAccountName: {{ .root.Release.Name }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .root.Values.gracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "fractureai.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Certificates of the receiver, and of who delivers; the same settings name both */ -}}
{{- define "fractureai.dicomTls" -}}
{{- range $name, $file := dict "CERT" "tls.crt" "KEY" "tls.key" "CA" "ca.crt" }}
- {name: FRACTUREAI_GATEWAY_TLS_{{ $name }}, value: /tls/{{ $file }}}
{{- end }}
{{- end -}}

{{- define "fractureai.mounts" -}}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: cache, mountPath: /cache}
  - {name: scratch, mountPath: /scratch}
  - {name: secrets, mountPath: /secrets, readOnly: true}
{{- end -}}

{{- /* Secrets are files: what a pod's environment holds, `kubectl describe` and crash reports show */ -}}
{{- define "fractureai.volumes" -}}
volumes:
  - name: tmp
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  - name: cache
    emptyDir: {sizeLimit: 4Gi}
  - name: scratch
    emptyDir: {sizeLimit: {{ .root.Values.scratchSize }}}
  - name: secrets
    projected:
      defaultMode: 0440
      sources:
        {{- with .root.Values.secrets }}
        - secret: {name: {{ .application.name }}, items: [{key: {{ .application.key }}, path: database_password}]}
        - secret: {name: {{ .broker.name }}, items: [{key: {{ .broker.key }}, path: broker_password}]}
        - secret: {name: {{ .secretKey.name }}, items: [{key: {{ .secretKey.key }}, path: secret_key}]}
        {{- if $.owner }}
        - secret: {name: {{ .owner.name }}, items: [{key: {{ .owner.key }}, path: database_owner_password}]}
        {{- end }}
        {{- end }}
        {{- range $name, $from := .root.Values.secretSettings }}
        - secret: {name: {{ $from.name }}, items: [{key: {{ $from.key }}, path: {{ $name }}}]}
        {{- end }}
{{- end -}}

{{- define "fractureai.environment" -}}
env:
  - {name: FRACTUREAI_DATABASE_URL, value: {{ .root.Values.database.url | quote }}}
  - {name: FRACTUREAI_DATABASE_PASSWORD_FILE, value: /secrets/database_password}
  {{- with .root.Values.database.directUrl }}
  - {name: FRACTUREAI_DATABASE_DIRECT_URL, value: {{ . | quote }}}
  {{- end }}
  {{- with .root.Values.database.pooler }}
  - {name: FRACTUREAI_DATABASE_POOLER, value: {{ . | quote }}}
  {{- end }}
  {{- if .owner }}
  - {name: FRACTUREAI_DATABASE_OWNER_URL, value: {{ .root.Values.database.ownerUrl | quote }}}
  - {name: FRACTUREAI_DATABASE_OWNER_PASSWORD_FILE, value: /secrets/database_owner_password}
  {{- end }}
  - {name: FRACTUREAI_BROKER_URL, value: {{ .root.Values.broker.url | quote }}}
  - {name: FRACTUREAI_BROKER_PASSWORD_FILE, value: /secrets/broker_password}
  - {name: FRACTUREAI_BLOB_URL, value: {{ .root.Values.blobs.url | quote }}}
  - {name: FRACTUREAI_SECRET_KEY_FILE, value: /secrets/secret_key}
  - {name: FRACTUREAI_SITE_NAME, value: {{ .root.Values.siteName | quote }}}
  - {name: FRACTUREAI_PUBLIC_URL, value: {{ .root.Values.publicUrl | quote }}}
  - {name: FRACTUREAI_SECURE_COOKIES, value: "true"}
  - {name: FRACTUREAI_TRUSTED_PROXIES, value: {{ .root.Values.trustedProxies | quote }}}
  - {name: FRACTUREAI_CACHE_DIR, value: /cache}
  - {name: FRACTUREAI_ALIVE_FILE, value: /tmp/alive}
  - {name: TMPDIR, value: /scratch}
  {{- if .oneThread }}
  {{- range list "OMP" "OPENBLAS" "MKL" "OPENCV_FOR" }}
  - {name: {{ . }}_NUM_THREADS, value: "1"}
  {{- end }}
  {{- end }}
  {{- range $name, $value := .root.Values.settings }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
  {{- range $name, $_ := .root.Values.secretSettings }}
  - {name: {{ $name }}_FILE, value: /secrets/{{ $name }}}
  {{- end }}
  {{- with .more }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.secrets.blobs.name }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}
