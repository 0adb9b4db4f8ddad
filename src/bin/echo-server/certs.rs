//! `echo-server certs`: writes a private CA and its certificates, and prints commands that use
//! them.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use echo_server::certs::{self, Certificates, Name};

use crate::REFUSED;
use crate::cli::Certs;
use crate::new_files::{NewFiles, Readable};

pub fn run(certs: Certs) -> ExitCode {
    let made = match certs::issue(&certs.names, SystemTime::now()) {
        Ok(made) => made,
        Err(error) => return crate::fail(REFUSED, &error.to_string()),
    };
    if let Err(error) = write(&certs.directory, &made) {
        return crate::fail(REFUSED, &format!("certs {error}"));
    }
    crate::print(describe(&certs, &made).as_bytes())
}

fn write(directory: &Path, made: &Certificates) -> Result<(), String> {
    let mut files = NewFiles::default();
    files.directory(directory)?;
    for (name, pair) in [("ca", &made.ca), ("server", &made.server), ("client", &made.client)] {
        let path = directory.join(name);
        files.file(&path.with_extension("pem"), Readable::ByAll, &pair.certificate)?;
        files.file(&path.with_extension("key"), Readable::ByOwner, &pair.key)?;
    }
    files.keep();
    Ok(())
}

/// The list of files, and the commands that use them.
fn describe(certs: &Certs, made: &Certificates) -> String {
    let [ca, ca_key, server, server_key, client, client_key] =
        ["ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key"]
            .map(|name| shell_word(&certs.directory.join(name).to_string_lossy()));
    let [ca_until, server_until, client_until] = [&made.ca, &made.server, &made.client]
        .map(|pair| humantime::format_rfc3339_seconds(pair.expires));
    let names: Vec<_> = certs.names.iter().map(Name::to_string).collect();
    let names = names.join(", ");
    // The commands need a name that the wildcard matches.
    let host = certs.names[0].to_string().replace('*', "www");
    let verify = match certs.names[0].ip() {
        Some(address) => format!("-verify_ip {address}"),
        None => format!("-servername {host} -verify_hostname {host}"),
    };
    format!(
        "{ca}, {ca_key}: a CA, valid until {ca_until}\n\
         {server}, {server_key}: a server, {names}, valid until {server_until}\n\
         {client}, {client_key}: a client, {names}, valid until {client_until}\n\
         \n\
         echo-server --tls --cert {server} --key {server_key}\n\
         openssl s_client -connect 127.0.0.1:8443 {verify} -CAfile {ca} -verify_return_error\n\
         echo-server probe tls://127.0.0.1:8443 --server-name {host} --ca {ca} --count 1\n\
         \n\
         Or with a client certificate:\n\
         echo-server --tls --cert {server} --key {server_key} --client-ca {ca}\n\
         echo-server probe tls://127.0.0.1:8443 --server-name {host} --ca {ca} --cert {client} \
         --key {client_key} --count 1\n"
    )
}

/// Quotes `text` so that a POSIX shell reads it as one word, and no command takes it for a flag.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    match text {
        _ if text.starts_with('-') => shell_word(&format!("./{text}")),
        _ if text.chars().all(is_plain) => text.to_owned(),
        _ => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_needs_it() {
        for (text, word) in [
            ("pki/ca.pem", "pki/ca.pem"),
            ("my pki/ca.pem", "'my pki/ca.pem'"),
            ("it's/ca.pem", r"'it'\''s/ca.pem'"),
            ("~/$HOME/ca.pem", "'~/$HOME/ca.pem'"),
            ("-pki/ca.pem", "./-pki/ca.pem"),
            ("- /ca.pem", "'./- /ca.pem'"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }
}
