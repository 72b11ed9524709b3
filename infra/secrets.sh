#!/bin/sh
# Makes the secrets of infra/compose.yaml, each in a file; those that are there stay. The folder is this user's alone. The
# files in it are for all, since a container sees its own files alone, without the folder, and as another user.
#
#   sh infra/secrets.sh           below infra/secrets, which git ignores
#   sh infra/secrets.sh FOLDER
set -eu

cd -P "$(dirname "$0")"
folder=${1:-secrets}
mkdir -p "$folder"
chmod 700 "$folder"
umask 022
cd "$folder"

word() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
# Under its final name only when it is whole.
keep() { [ -s "$1" ] && rm "$1.new" || mv "$1.new" "$1"; }

for name in postgres_password gateway_token grafana_password; do
    word >"$name.new"
    keep "$name"
done
if [ ! -s s3.json ] || [ ! -s s3_credentials ]; then
    key=$(word) secret=$(word)
    printf '{"identities": [{"name": "relume", "credentials": [{"accessKey": "%s", "secretKey": "%s"}],\n' "$key" "$secret" >s3.json.new
    printf ' "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}\n' >>s3.json.new
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" >s3_credentials.new
    mv s3_credentials.new s3_credentials
    mv s3.json.new s3.json
fi
