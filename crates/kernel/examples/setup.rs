//! Writes the archive with a machine's setup to standard output:
//! `setup HOSTNAME initramfs|overlay:TAG|direct:TAG [TAG:PATH[:ro]]...`.

use std::{env, error::Error, io::Write};

use wire::agent::{Root, Setup, Share, VERSION};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let hostname = arguments.next().ok_or("give a host name")?;
    let root = match arguments.next().ok_or("give a root")?.split_once(':') {
        Some(("overlay", tag)) => Root::discarding(tag),
        Some((_, tag)) => Root::Direct { tag: tag.into() },
        None => Root::Initramfs,
    };
    let shares = arguments.map(|share| {
        let mut fields = share.split(':').map(str::to_owned);
        Share {
            tag: fields.next().unwrap_or_default(),
            path: fields.next().unwrap_or_default(),
            read_only: fields.next().is_some(),
        }
    });
    let setup = Setup {
        version: VERSION,
        hostname,
        root,
        directories: Vec::new(),
        shares: shares.collect(),
        mounts: Vec::new(),
        network: None,
        init: None,
        terminal: false,
    };
    std::io::stdout().write_all(&kernel::setup_archive(&setup)?)?;
    Ok(())
}
