#!/usr/bin/env bash
# Mounts a Cloud Storage bucket at /bucket, and installs gcsfuse if it is missing:
#
#   bash launch/mount_bucket.sh BUCKET
#
# The bucket should have a hierarchical namespace: checkpoints are finished by renaming a directory.
set -euo pipefail
BUCKET=${1:-}
if [[ -z $BUCKET ]]; then
  echo "launch/mount_bucket.sh: give the name of the bucket" >&2
  exit 2
fi
if ! command -v gcsfuse >/dev/null; then
  KEY=/usr/share/keyrings/cloud.google.asc
  SOURCE=https://packages.cloud.google.com/apt
  curl --fail --silent --show-error "$SOURCE/doc/apt-key.gpg" | sudo tee "$KEY" >/dev/null
  echo "deb [signed-by=$KEY] $SOURCE gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update -qq
  sudo apt-get install --yes -qq gcsfuse
fi
sudo install --directory --owner="$USER" /bucket
mountpoint --quiet /bucket ||
  gcsfuse --implicit-dirs --rename-dir-limit=100000 "$BUCKET" /bucket
