//! `target token`: who may use the target server on this machine.

use zoneward_targets::server::{NewToken, TokenError, TokenFile, TokenRecord, Tokens};

use crate::cli::TargetTokenCommand;
use crate::errors::{Failure, chain, exit};
use crate::output::Out;
use crate::units::{bytes, utc_time};

impl From<TokenError> for Failure {
    fn from(e: TokenError) -> Self {
        match &e {
            TokenError::BadName => Failure::new(1332, exit::USAGE, e.to_string()),
            TokenError::NoSuchToken(_) => {
                Failure::new(1332, exit::FAILED, e.to_string()).help("zoneward target token ls lists them")
            }
            _ => Failure::new(1332, exit::FAILED, chain(&e)),
        }
    }
}

pub fn token(out: Out, command: TargetTokenCommand) -> Result<i32, Failure> {
    match command {
        TargetTokenCommand::Add { data, account, quota, role, days, zones, zone } => {
            let roles = role.into_iter().collect();
            let new = NewToken { account, roles, quota_bytes: quota, zones_max: zones, zone, days };
            let file = TokenFile::of(&data);
            let (text, record) = file.add(&new)?;
            let about = json(&record, &file.load()?);
            out.json(&serde_json::json!({"schema": "zoneward.target-token/1", "token": *text, "about": about}));
            out.answer(text.as_str());
            out.say(format!("It is shown this once. zoneward target token remove {} ends it.", record.id));
        }
        TargetTokenCommand::Ls { data } => show(out, &TokenFile::of(&data).load()?),
        TargetTokenCommand::Remove { data, token } => {
            let file = TokenFile::of(&data);
            let gone = file.remove(&token)?;
            out.say(format!("token {} of {} lets nobody in any more; what is kept stays", gone.id, gone.account));
            if out.json {
                show(out, &file.load()?);
            }
        }
    }
    Ok(0)
}

fn roles(t: &TokenRecord) -> Vec<&'static str> {
    t.roles.iter().map(|r| r.name()).collect()
}

fn json(t: &TokenRecord, all: &Tokens) -> serde_json::Value {
    serde_json::json!({
        "id": t.id, "account": t.account, "roles": roles(t), "created": utc_time(t.created_ms),
        "expires": t.expires_ms.map(utc_time),
        "quota_bytes": all.accounts.get(&t.account).and_then(|a| a.quota_bytes),
    })
}

fn show(out: Out, all: &Tokens) {
    let rows: Vec<_> = all.tokens.iter().map(|t| json(t, all)).collect();
    out.json(&serde_json::json!({"schema": "zoneward.target-tokens/1", "tokens": rows}));
    for t in &all.tokens {
        let quota = all.accounts.get(&t.account).and_then(|a| a.quota_bytes);
        let quota = quota.map_or_else(|| "no quota".to_owned(), bytes);
        let end = t.expires_ms.map_or_else(String::new, |ms| format!("  until {}", utc_time(ms)));
        out.answer(format!("{}  {:<20} {quota:>10}  {}{end}", t.id, t.account, roles(t).join(" ")));
    }
}
