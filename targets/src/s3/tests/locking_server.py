"""An S3 server with versions, object lock and policies, on a loopback port; what is typed is done with its owner's keys.

One line of JSON in, one out. The first line out says where it listens and which keys a node has."""

import json
import logging
import os
import sys
import urllib.request

os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = "1000"
os.environ.setdefault("INITIAL_NO_AUTH_ACTION_COUNT", "1000000")

import boto3  # noqa: E402
from botocore.exceptions import ClientError  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

with open(sys.argv[1], encoding="utf-8") as file:
    POLICY = file.read()

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
base = f"http://{host}:{port}"


def client(service, key="setup", secret="setup"):
    return boto3.client(service, endpoint_url=base, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret)


def user(name, policy):
    iam = client("iam")
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy)
    made = iam.create_access_key(UserName=name)["AccessKey"]
    return made["AccessKeyId"], made["SecretAccessKey"]


everything = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
owner = user("owner", everything)
node = user("node", POLICY.replace("BUCKET", "locked*"))
enforce = urllib.request.Request(f"{base}/moto-api/reset-auth", data=b"0", method="POST")
enforce.add_header("Content-Type", "text/plain")
urllib.request.urlopen(enforce).read()
keys = {"owner": client("s3", *owner), "node": client("s3", *node)}
print(json.dumps({"port": port, "node": node, "owner": owner}), flush=True)


def bucket(name, lock, versions):
    s3 = keys["owner"]
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)
    if versions and not lock:
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


def versions(name):
    page = keys["owner"].list_object_versions(Bucket=name)
    assert not page["IsTruncated"]
    rows = []
    for row in page.get("Versions", []):
        of = {} if row["VersionId"] == "null" else {"VersionId": row["VersionId"]}
        head = keys["owner"].head_object(Bucket=name, Key=row["Key"], **of)
        until = head.get("ObjectLockRetainUntilDate")
        rows.append({
            "key": row["Key"], "id": row["VersionId"], "latest": row["IsLatest"], "len": row["Size"], "marker": False,
            "mode": head.get("ObjectLockMode"), "until": until and int(until.timestamp()),
        })
    for row in page.get("DeleteMarkers", []):
        rows.append({"key": row["Key"], "id": row["VersionId"], "latest": row["IsLatest"], "len": 0, "marker": True})
    return rows


def remove(by, name, key, version=None):
    more = {"VersionId": version} if version else {}
    keys[by].delete_object(Bucket=name, Key=key, **more)


DO = {"bucket": bucket, "versions": versions, "remove": remove}
for line in sys.stdin:
    name, args = json.loads(line)
    try:
        answer = {"ok": DO[name](*args)}
    except ClientError as error:
        answer = {"error": error.response["Error"]["Code"]}
    print(json.dumps(answer), flush=True)
server.stop()
