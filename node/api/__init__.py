"""The HTTP doors of a node.

``loopback``  the listener on 127.0.0.1 and the guard that every request passes there
``control``   what the command line asks for: POST /control/v1/{operation}, GET /health

Each door is a list of Starlette routes; node/daemon.py joins them into one application.
"""
