//! `init` and `man`.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use zoneward_actors::clock::now_ms;
use zoneward_actors::home::{real, target_around};
use zoneward_actors::init::{NewZone, Place, init as make_zone};
use zoneward_actors::zone::Zone;
use zoneward_sectors::fsx;
use zoneward_sectors::keyfile::Words;
use zoneward_sectors::owner::RsaSize;
use zoneward_targets::{Credentials, Url};

use super::home;
use crate::cli::{Cli, Global, InitArgs};
use crate::errors::{Failure, exit};
use crate::kit::file::refuse_foreign;
use crate::kit::{KitInput, render_html};
use crate::output::Out;
use crate::{passphrase, units};

pub(crate) fn parse_url(text: &str) -> Result<Url, Failure> {
    if zoneward_targets::code::is_code(text) {
        // It is not repeated: it may carry credentials.
        return Err(Failure::new(1665, exit::USAGE, "the code of a target cannot be used here")
            .help("zoneward target add - takes it; here give the target's URL"));
    }
    Url::parse_or_path(text)
        .map_err(|e| Failure::new(1303, exit::USAGE, format!("{text:?} is not a target")).why(e.to_string()))
}

/// Reads what opens a target. Where a file is given, a target over the network takes it, and a directory does not need it.
pub(crate) fn place(url: Url, credentials: Option<&Path>) -> Result<Place, Failure> {
    let needed = !matches!(url, Url::File(_));
    let credentials = match credentials.filter(|_| needed) {
        Some(path) => Some(read_credentials(path)?),
        None if needed => {
            return Err(Failure::new(1320, exit::USAGE, format!("{url} needs credentials")).help(
                "put them in a file that only you can read, and name it: --credentials-file FILE (docs/cli.md)",
            ));
        }
        None => None,
    };
    Ok(Place { url, credentials })
}

/// Reads a file of credentials.
pub(crate) fn read_credentials(path: &Path) -> Result<Credentials, Failure> {
    Credentials::read(path)
        .map_err(|e| Failure::new(1321, exit::USAGE, "the credentials cannot be used").why(e.to_string()))
}

pub(crate) fn rsa_size(bits: &str) -> RsaSize {
    if bits == "4096" { RsaSize::Rsa4096 } else { RsaSize::Rsa3072 }
}

/// A home keeps keys in the clear: whoever holds a target must not hold them too. And what takes the home must not take its
/// backups.
pub(super) fn apart(home: &Path, targets: &[Url]) -> Result<(), Failure> {
    for url in targets {
        if let Url::File(folder) = url
            && real(folder).starts_with(real(home))
        {
            return Err(Failure::new(1007, exit::REFUSED, format!("the target {} lies in the home", folder.display()))
                .why("who loses the home would lose its backups too")
                .help("choose another folder for one of them"));
        }
    }
    match target_around(home, targets) {
        None => Ok(()),
        Some(target) => Err(Failure::new(1007, exit::REFUSED, format!("the home {} lies in a target", home.display()))
            .why(format!("whoever holds {} would hold the zone's keys with its backups", target.display()))
            .help("choose another folder for one of them")),
    }
}

/// Two targets are two places.
pub(super) fn separate(new: &Url, others: &[Url]) -> Result<(), Failure> {
    let folder = |url: &Url| match url {
        Url::File(folder) => Some(real(folder)),
        _ => None,
    };
    let Some(at) = folder(new) else { return Ok(()) };
    let nested = |o: &PathBuf| *o != at && (o.starts_with(&at) || at.starts_with(o));
    match others.iter().filter_map(folder).find(nested) {
        None => Ok(()),
        Some(other) => {
            let text = format!("of the targets {} and {} one lies in the other", at.display(), other.display());
            Err(Failure::new(1324, exit::REFUSED, text)
                .why("copies on both would be lost together")
                .help("choose another folder for one of them"))
        }
    }
}

/// A kit opens everything: it must not lie where the backups do.
pub(super) fn kit_is_apart(kit: &Path, targets: &[Url]) -> Result<(), Failure> {
    match target_around(kit, targets) {
        None => Ok(()),
        Some(target) => {
            Err(Failure::new(1112, exit::REFUSED, format!("the kit {} would lie in a target", kit.display()))
                .why(format!("whoever holds {} could then read every backup on it", target.display()))
                .help("name another file with --kit"))
        }
    }
}

/// Writes the printable recovery kit of a zone, readable by this user only.
pub(crate) fn write_kit(zone: &Zone, words: &Words, path: &Path) -> Result<(), Failure> {
    let html = kit_for(zone, words, path)?;
    fsx::write_durably(path, html.as_bytes(), 0o600).map_err(|e| {
        Failure::new(1106, exit::FAILED, format!("the recovery kit {} cannot be written", path.display()))
            .why(e.to_string())
            .help("name another file with --kit")
    })
}

/// The page of a kit that may lie at `path`.
pub(crate) fn kit_for(zone: &Zone, words: &Words, path: &Path) -> Result<zeroize::Zeroizing<String>, Failure> {
    let Some(z) = zone.state().zone.as_ref() else {
        return Err(Failure::new(1005, exit::FAILED, "the home holds no zone"));
    };
    let targets: Vec<String> = zone.state().targets.values().map(|t| t.url.clone()).collect();
    let urls: Vec<Url> = targets.iter().filter_map(|t| t.parse().ok()).collect();
    kit_is_apart(path, &urls)?;
    let time = units::local_time(now_ms());
    let kit = KitInput {
        zone_name: &z.name,
        zone: z.id,
        fingerprint: z.owner_fingerprint,
        words,
        targets: &targets,
        date: time.split(' ').next().unwrap_or_default(),
    };
    Ok(render_html(&kit))
}

pub fn init(g: &Global, out: Out, a: &InitArgs) -> Result<i32, Failure> {
    let dir = home(g)?;
    let credentials = a.credentials_file.as_deref();
    let targets = a.target.iter().map(|t| place(parse_url(t)?, credentials)).collect::<Result<Vec<_>, _>>()?;
    let pass =
        passphrase::get_new(g.passphrase_file.as_deref(), "ZONEWARD_PASSPHRASE", "passphrase for the owner's keys")?;
    let urls: Vec<Url> = targets.iter().map(|t| t.url.clone()).collect();
    apart(&dir, &urls)?;
    urls.iter().try_for_each(|url| separate(url, &urls))?;
    if let Some(kit) = &a.kit {
        kit_is_apart(kit, &urls)?;
        refuse_foreign(kit, None)?;
    }
    let new = NewZone {
        name: a.name.clone(),
        node_name: host_name(),
        targets,
        sector_min_log2: a.sector_min,
        zstd_level: a.compression,
        rsa: rsa_size(&a.rsa_bits),
        passphrase_on_targets: a.passphrase_on_targets,
    };
    let kit = |zone: &Zone| a.kit.clone().unwrap_or_else(|| zone.home.recovery_kit());
    let zone = make_zone(&dir, &new, &pass, |zone, words| write_kit(zone, words, &kit(zone)))?;
    report(out, &zone, &kit(&zone));
    Ok(0)
}

fn report(out: Out, zone: &Zone, kit: &Path) {
    let Some(z) = zone.state().zone.as_ref() else { return };
    let targets: Vec<_> =
        zone.state().targets.values().map(|t| serde_json::json!({"id": t.id, "name": t.name, "url": t.url})).collect();
    out.json(&serde_json::json!({
        "schema": "zoneward.init/1", "zone": z.id, "name": z.name, "home": crate::units::shown(zone.home.dir()), "recovery_kit": crate::units::shown(kit),
        "owner_fingerprint": z.owner_fingerprint, "targets": targets,
    }));
    out.say(format!("zone {} made in {}", z.name, zone.home.dir().display()));
    for t in zone.state().targets.values() {
        out.say(format!("target {}: {}", t.name, t.url));
    }
    out.say(format!("owner key {}", z.owner_fingerprint));
    out.say("");
    out.say(format!("The recovery kit is in {}", kit.display()));
    out.say("Print it, store it OUTSIDE this zone (two places are better), then delete the file.");
    out.say("Its 24 words and one target bring everything back. Without them and the passphrase, nobody can.");
    out.say("");
    out.say("next: zoneward backup ~/Documents");
}

pub(crate) fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "node".into() } else { name }
}

/// Writes manual pages, from the same tree as the help.
pub fn man(out: Out, dir: Option<&Path>) -> Result<i32, Failure> {
    let place = dir.map_or_else(|| "standard output".to_owned(), units::shown);
    let what = format!("the manual cannot be written to {place}");
    let fail = |e: std::io::Error| Failure::new(1701, exit::FAILED, what.clone()).why(e.to_string());
    let page = |c: clap::Command| {
        let mut text = Vec::new();
        clap_mangen::Man::new(c).render(&mut text).map(|()| text)
    };
    let tree = Cli::command();
    match dir {
        None => {
            use std::io::Write;
            let text = page(tree).map_err(fail)?;
            if out.json {
                out.json(&serde_json::json!({"schema": "zoneward.man/1", "page": String::from_utf8_lossy(&text)}));
            } else {
                std::io::stdout().write_all(&text).map_err(fail)?;
            }
        }
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(fail)?;
            let mut written = Vec::new();
            for (name, command) in pages(tree, &["zoneward"]) {
                let path: PathBuf = dir.join(format!("{name}.1"));
                std::fs::write(&path, page(command).map_err(fail)?).map_err(fail)?;
                written.push(units::shown(&path));
            }
            out.say(format!("{} written to {place}", units::plural(written.len() as u64, "page", "pages")));
            out.json(&serde_json::json!({"schema": "zoneward.man/1", "pages": written}));
        }
    }
    Ok(0)
}

/// Every command with the name of its page.
fn pages(command: clap::Command, words: &[&str]) -> Vec<(String, clap::Command)> {
    let mut all = vec![];
    for sub in command.get_subcommands() {
        all.extend(pages(sub.clone(), &[words, &[sub.get_name()]].concat()));
    }
    // The page is called as its file is; what is typed has spaces.
    let name = words.join("-");
    all.insert(0, (name.clone(), command.display_name(name).bin_name(words.join(" "))));
    all
}
