#!/bin/sh
# Makes the test certificates anew: sh certs/make.sh
# The CA's key exists only while this runs, so that nobody can be fooled by a certificate that
# somebody else signed with it.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

new_key() {
    openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

# issue NAME SUBJECT EXTENSIONS: NAME.key and NAME.pem, signed by the CA.
issue() {
    new_key "$1.key"
    openssl req -new -key "$1.key" -subj "$2" -out "$work/$1.csr"
    printf '%s\n' "$3" 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' \
        'subjectKeyIdentifier=hash' 'authorityKeyIdentifier=keyid' >"$work/$1.ext"
    openssl x509 -req -in "$work/$1.csr" -CA ca.pem -CAkey "$work/ca.key" -days 3650 -sha256 \
        -set_serial "0x$(openssl rand -hex 16 | sed 's/^[89a-f]/1/')" -extfile "$work/$1.ext" \
        -out "$1.pem"
}

new_key "$work/ca.key"
openssl req -x509 -new -key "$work/ca.key" -sha256 -days 3650 -subj '/CN=echo-server test CA' \
    -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' \
    -addext 'keyUsage=critical,keyCertSign,cRLSign' -out ca.pem
issue server '/CN=localhost' 'extendedKeyUsage=serverAuth
subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1'
issue client '/CN=echo-server test client' 'extendedKeyUsage=clientAuth
subjectAltName=DNS:client.test'
