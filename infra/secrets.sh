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
# Each may do in the S3 store what it has to: the worker reads photographs and keeps data versions, MLflow has its bucket alone;
# who puts photographs there uses the administrator's, which no service gets.
identity() {
    name=$1
    shift
    key=$(word) secret=$(word)
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" >"s3_$name"
    printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": [%s]}' "$name" "$key" "$secret" "$*"
}
if [ ! -s s3.json ]; then # the last to be written: until it is there all are made anew
    {
        printf '{"identities": [\n'
        identity admin '"Admin", "Read", "Write", "List", "Tagging"'
        printf ',\n'
        identity mlflow '"Admin:mlflow"'
        printf ',\n'
        identity worker '"Read:photos", "List:photos", "Admin:dvc"'
        printf '\n]}\n'
    } >s3.json.new
    mv s3.json.new s3.json
fi
