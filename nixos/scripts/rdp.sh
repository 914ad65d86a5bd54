# The guest's desktop by RDP. The client asks for the password: on the command line every user could read it.
if (($# > 0)); then
	echo "usage: rdp (options are in vfio.rdp.options)" >&2
	exit 2
fi
mapfile -t options < <(printf %s "$VFIO_RDP_OPTIONS")
exec xfreerdp "/v:$VFIO_RDP_HOST" ${VFIO_RDP_USER:+"/u:$VFIO_RDP_USER"} "${options[@]}"
