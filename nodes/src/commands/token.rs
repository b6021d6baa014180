//! `token`: what lets programs use the REST API.

use zoneward_actors::clock::now_ms;
use zoneward_actors::zone::Zone;
use zoneward_consensus::command::Command;
use zoneward_consensus::model::{Scope, Token};
use zoneward_sectors::ids::TokenId;

use super::open;
use crate::api::token::Secret;
use crate::cli::{Global, TokenCommand};
use crate::errors::{Failure, exit};
use crate::output::Out;
use crate::units::utc_time;

const DAY_MS: u64 = 24 * 3_600_000;

pub fn token(g: &Global, out: Out, command: TokenCommand) -> Result<i32, Failure> {
    let mut zone = open(g)?;
    match command {
        TokenCommand::Create { label, scope, days } => create(&mut zone, out, label, scope, days),
        TokenCommand::Ls => {
            show(&zone, out);
            Ok(0)
        }
        TokenCommand::Revoke { token } => {
            let id = find(&zone, &token)?;
            zone.propose(Command::RemoveToken { token: id })?;
            out.say("it lets nobody in any more");
            if out.json {
                show(&zone, out);
            }
            Ok(0)
        }
    }
}

fn create(zone: &mut Zone, out: Out, label: String, scope: Vec<Scope>, days: u16) -> Result<i32, Failure> {
    let secret = Secret::random();
    let scopes = if scope.is_empty() { [Scope::StatusRead].into() } else { scope.into_iter().collect() };
    let expires_ms = now_ms().max(zone.state().last_time_ms) + u64::from(days) * DAY_MS;
    let (token, hash) = (secret.id, secret.hash());
    zone.propose(Command::PutToken { token, hash, label, scopes, expires_ms })?;
    let made = zone.state().tokens.get(&token).map(json).unwrap_or_default();
    out.json(&serde_json::json!({"schema": "zoneward.token/1", "token": secret.text(), "about": made}));
    out.answer(secret.text());
    out.say(format!(
        "It is shown this once. It expires on {}; zoneward token revoke {:.8} ends it at once.",
        utc_time(expires_ms),
        token.to_string()
    ));
    Ok(0)
}

fn find(zone: &Zone, text: &str) -> Result<TokenId, Failure> {
    let begins = |t: &&Token| text.len() >= 4 && t.id.to_string().starts_with(&text.to_lowercase());
    let mut fits = zone.state().tokens.values().filter(|t| t.label == text || begins(t));
    match (fits.next(), fits.next()) {
        (Some(t), None) => Ok(t.id),
        (None, _) => Err(Failure::new(3101, exit::FAILED, format!("no token is called {text:?}"))
            .help("zoneward token ls lists them")),
        _ => Err(Failure::new(3101, exit::FAILED, format!("several tokens are called {text:?}"))
            .help("give the id: zoneward token ls")),
    }
}

fn json(t: &Token) -> serde_json::Value {
    serde_json::json!({
        "id": t.id, "label": t.label, "scopes": t.scopes, "created": utc_time(t.created_ms), "expires": utc_time(t.expires_ms),
    })
}

fn show(zone: &Zone, out: Out) {
    let mut all: Vec<&Token> = zone.state().tokens.values().collect();
    all.sort_by_key(|t| (t.created_ms, t.id));
    out.json(
        &serde_json::json!({"schema": "zoneward.tokens/1", "tokens": all.iter().map(|t| json(t)).collect::<Vec<_>>()}),
    );
    for t in all {
        let scopes: Vec<&str> = t.scopes.iter().map(|s| s.name()).collect();
        let over = if t.expires_ms <= now_ms() { "EXPIRED" } else { "until" };
        out.answer(format!(
            "{:.8}  {:<20} {over} {}  {}",
            t.id.to_string(),
            t.label,
            utc_time(t.expires_ms),
            scopes.join(" ")
        ));
    }
}
