"""An RTSP server by GStreamer, for any Python that has its bindings: VIDEO PORT [USER PASSWORD].

Prints its port. `--check` only says by the exit code whether everything that it needs is there.
"""

import sys

import gi  # type: ignore[import-not-found, unused-ignore]

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # type: ignore  # noqa: E402

ELEMENTS = ("filesrc", "qtdemux", "h264parse", "rtph264pay", "rtpbin")
LAUNCH = (
    "( filesrc location={} ! qtdemux ! h264parse config-interval=-1 "
    "! video/x-h264,stream-format=byte-stream,alignment=au ! rtph264pay name=pay0 pt=96 )"
)


def serve(video: str, port: str, *user: str) -> None:
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(LAUNCH.format(video))
    if user:
        require_login(server, factory, *user)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


def require_login(server, factory, name: str, password: str) -> None:  # type: ignore
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role("viewer")
    for permission in ("access", "construct"):
        permissions.add_permission_for_role("viewer", f"media.factory.{permission}", True)
    factory.set_permissions(permissions)


Gst.init(None)
if sys.argv[1] == "--check":
    sys.exit(not all(Gst.ElementFactory.find(name) for name in ELEMENTS))
serve(*sys.argv[1:])
