//! The flags of `echo-server certs`.

use std::path::PathBuf;

use clap::Args;
use echo_server::certs::Name;

/// Which certificates to make, and where.
#[derive(Debug)]
pub struct Certs {
    pub directory: PathBuf,
    /// At least one.
    pub names: Vec<Name>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The files are ca.pem, server.pem, client.pem, and the key of each: ca.key, \
                  server.key, client.key. If one of them is there already, none is written.\n\
                  Exit codes: 0 all written; 1 the system refused, or a file is there; 2 wrong usage."
)]
pub(super) struct CertsArgs {
    /// The directory to write them to; it is made if need be
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// A DNS name or IP address that they are for; can be given several times
    /// [localhost, 127.0.0.1, ::1 and the host name]
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    name: Vec<Name>,
}

impl From<CertsArgs> for Certs {
    fn from(args: CertsArgs) -> Certs {
        let names = if args.name.is_empty() { Name::of_this_machine() } else { args.name };
        Certs { directory: args.directory, names }
    }
}
