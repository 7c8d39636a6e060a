{{- define "flannel.image" -}}
{{ .Values.flannel.image.repository }}:{{ .Values.flannel.image.tag }}
{{- end }}

{{- define "flannel.pluginImage" -}}
{{- $own := .Values.flannel.flannel_cni.image -}}
{{ $own.repository | default .Values.flannel.image.repository }}:{{ $own.tag | default .Values.flannel.image.tag }}
{{- end }}

{{- /* The keys of the backend, as a map. */ -}}
{{- define "flannel.backend" -}}
{{- $f := .Values.flannel -}}
{{- $all := dict "vxlan" (dict "Port" $f.backendPort "VNI" $f.vni "GBP" $f.GBP "DirectRouting" $f.directRouting "MTU" $f.mtu "MacPrefix" $f.macPrefix) -}}
{{- $_ := set $all "wireguard" (dict "ListenPort" $f.backendPort "ListenPortV6" $f.backendPortv6 "PSK" $f.psk "MTU" $f.mtu "Mode" $f.tunnelMode "PersistentKeepaliveInterval" $f.keepaliveInterval) -}}
{{- $_ := set $all "udp" (dict "Port" $f.backendPort) -}}
{{- $_ := set $all "ipip" (dict "DirectRouting" $f.directRouting) -}}
{{- $backend := dict "Type" $f.backend -}}
{{- range $key, $value := get $all $f.backend | default dict -}}
{{- if $value -}}
{{- $_ := set $backend $key $value -}}
{{- end -}}
{{- end -}}
{{- toPrettyJson $backend -}}
{{- end }}

{{- define "flannel.netConf" -}}
{{- $conf := dict "Backend" (include "flannel.backend" . | fromJson) -}}
{{- if not (or .Values.podCidr .Values.podCidrv6) -}}
{{- fail "podCidr and podCidrv6 are both empty: name the pods' network" -}}
{{- end -}}
{{- if .Values.podCidr -}}
{{- $_ := set $conf "Network" .Values.podCidr -}}
{{- else -}}
{{- $_ := set $conf "EnableIPv4" false -}}
{{- end -}}
{{- if .Values.podCidrv6 -}}
{{- $_ := set $conf "IPv6Network" .Values.podCidrv6 -}}
{{- $_ := set $conf "EnableIPv6" true -}}
{{- end -}}
{{- if .Values.flannel.enableNFTables -}}
{{- $_ := set $conf "EnableNFTables" true -}}
{{- end -}}
{{- toPrettyJson $conf -}}
{{- end }}

{{- define "flannel.seccomp" -}}
{{- if .Values.flannel.seccompProfile -}}
type: Localhost
localhostProfile: {{ .Values.flannel.seccompProfile }}
{{- else -}}
type: RuntimeDefault
{{- end -}}
{{- end }}
