"""Sets up an etcd by its gateway of JSON.

    etcd_client.py URL protect CA USER PASSWORD    only who has a password is answered; prints {}
"""

import base64
import json
import ssl
import sys
import time
import urllib.error
import urllib.request

url, what, ca, user, password = sys.argv[1:]
assert what == "protect", what
trusting = ssl.create_default_context(cafile=ca)


def post(path, wanted):
    request = urllib.request.Request(
        url + path, json.dumps(wanted).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=10, context=trusting))


def text(of):
    return base64.b64encode(of.encode()).decode()


deadline = time.monotonic() + 30
while True:
    try:
        post("/v3/kv/range", {"key": text("a")})
        break
    except (OSError, urllib.error.URLError):
        assert time.monotonic() < deadline, "it doesn't answer"
        time.sleep(0.05)
post("/v3/auth/user/add", {"name": "root", "password": "of-root"})
post("/v3/auth/role/add", {"name": "root"})
post("/v3/auth/user/grant", {"user": "root", "role": "root"})
post("/v3/auth/user/add", {"name": user, "password": password})
post("/v3/auth/role/add", {"name": "leases"})
key = text("event-manager/lease/event-manager")
post("/v3/auth/role/grant", {"name": "leases", "perm": {"permType": "READWRITE", "key": key}})
post("/v3/auth/user/grant", {"user": user, "role": "leases"})
post("/v3/auth/enable", {})
print("{}")
