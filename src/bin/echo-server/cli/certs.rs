//! The flags of `echo-server certs`.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use echo_server::certs::Name;

/// The options of the `certs` command.
#[derive(Debug)]
pub struct Certs {
    pub directory: PathBuf,
    /// At least one.
    pub names: Vec<Name>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The files are ca.pem, server.pem, client.pem, and the key of each: ca.key, \
                  server.key, client.key. If one of them exists already, none is written.\n\
                  Exit codes: 0 all files written; 1 the system refused, or a file exists; \
                  2 wrong usage."
)]
pub(super) struct CertsArgs {
    /// Directory for the files; it is created if it does not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// DNS name or IP address for the certificates; can be repeated
    /// [localhost, 127.0.0.1, ::1 and the host name]
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    name: Vec<Name>,

    /// Print this help
    #[arg(short, long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl From<CertsArgs> for Certs {
    fn from(args: CertsArgs) -> Certs {
        let names = if args.name.is_empty() { Name::of_this_machine() } else { args.name };
        Certs { directory: args.directory, names }
    }
}
