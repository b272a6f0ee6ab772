{{- define "tunnel.staticPod" -}}
{{- $server := .Values.server }}
{{- $names := dict "component" "server" "root" . -}}
apiVersion: v1
kind: Pod
metadata:
  name: tunnel-server
  namespace: {{ $server.staticPod.namespace }}
  labels:
    {{- include "tunnel.labels" $names | nindent 4 }}
spec:
  hostNetwork: true
  dnsPolicy: Default
  enableServiceLinks: false
  priorityClassName: {{ $server.priorityClassName }}
  # Five seconds more than connections may go on, for the end of the tunnels.
  terminationGracePeriodSeconds: {{ add $server.gracePeriodSeconds 5 }}
  securityContext:
    runAsUser: {{ $server.staticPod.runAsUser }}
    runAsGroup: {{ $server.staticPod.runAsUser }}
    {{- with $server.staticPod.socketGroup }}
    # May give the socket to the group without capabilities.
    supplementalGroups: [{{ . }}]
    {{- end }}
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: tunnel-server
      image: {{ include "tunnel.image" $names }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - --uds-name={{ $server.staticPod.socketDirectory }}/server.socket
        - --uds-mode={{ $server.staticPod.socketMode }}
        {{- with $server.staticPod.socketGroup }}
        - --uds-owner=:{{ . }}
        {{- end }}
        {{- with $server.staticPod.clientUids }}
        - --uds-allowed-uids={{ range $i, $uid := . }}{{ if $i }},{{ end }}{{ int64 $uid }}{{ end }}
        {{- end }}
        - --cluster-cert={{ $server.staticPod.certificate }}
        - --cluster-key={{ $server.staticPod.key }}
        - --kubeconfig={{ $server.staticPod.kubeconfig }}
        - --quic-reset-key-file=/run/tunnel-server/quic-reset.key
        - --server-id=$(NODE_NAME)
        {{- include "tunnel.serverArgs" . | nindent 8 }}
        {{- if .Values.leases.publish }}
        - --advertise-address=$(HOST_IP)
        {{- end }}
        - --health-bind-address={{ $server.staticPod.healthBindAddress }}
        {{- with $server.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        - name: NODE_NAME
          valueFrom:
            fieldRef:
              fieldPath: spec.nodeName
        {{- if .Values.leases.publish }}
        - name: HOST_IP
          valueFrom:
            fieldRef:
              fieldPath: status.hostIP
        {{- end }}
      ports:
        - name: health
          containerPort: {{ $server.healthPort }}
      # Ready with the first agent. Nothing waits for it: the kube-apiserver has to start without agents.
      readinessProbe:
        httpGet:
          path: /readyz
          port: health
          host: {{ $server.staticPod.healthBindAddress }}
        periodSeconds: 5
      livenessProbe:
        httpGet:
          path: /healthz
          port: health
          host: {{ $server.staticPod.healthBindAddress }}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      resources:
        {{- toYaml $server.resources | nindent 8 }}
      securityContext:
        {{- include "tunnel.containerSecurity" . | nindent 8 }}
      volumeMounts:
        # Single files: the directory has the keys of the cluster's CAs. kubeadm renews them in place, so a renewal is
        # seen here; a file that is replaced by rename is not.
        - name: certificate
          mountPath: {{ $server.staticPod.certificate }}
          readOnly: true
        - name: key
          mountPath: {{ $server.staticPod.key }}
          readOnly: true
        - name: config
          mountPath: {{ $server.staticPod.configDirectory }}
          readOnly: true
        {{- if ne (dir $server.staticPod.kubeconfig) $server.staticPod.configDirectory }}
        - name: kubeconfig
          mountPath: {{ $server.staticPod.kubeconfig }}
          readOnly: true
        {{- end }}
        - name: socket
          mountPath: {{ $server.staticPod.socketDirectory }}
        - name: admin
          mountPath: /run/tunnel-server
  volumes:
    - name: certificate
      hostPath:
        path: {{ $server.staticPod.certificate }}
        type: File
    - name: key
      hostPath:
        path: {{ $server.staticPod.key }}
        type: File
    # Whole, because its files are replaced by rename.
    - name: config
      hostPath:
        path: {{ $server.staticPod.configDirectory }}
        type: Directory
    {{- if ne (dir $server.staticPod.kubeconfig) $server.staticPod.configDirectory }}
    - name: kubeconfig
      hostPath:
        path: {{ $server.staticPod.kubeconfig }}
        type: File
    {{- end }}
    - name: socket
      hostPath:
        path: {{ $server.staticPod.socketDirectory }}
        type: DirectoryOrCreate
    # Where `tunnel-server status` on the node looks. The kube-apiserver does not mount it.
    - name: admin
      hostPath:
        path: /run/tunnel-server
        type: DirectoryOrCreate
{{- end }}
