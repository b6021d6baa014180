//! The one list of what is served, and its description: OpenAPI 3.1, made from the handlers.

use std::sync::LazyLock;

use actix_web::http::Method;
use actix_web::web;
use serde_json::{Value, json};
use utoipa::OpenApi;
use zoneward_consensus::model::Scope;

use super::{PROBLEM, Problem, ProblemBody, keep, levels, live, metrics, reads, restores, schedules, stream, things};

/// Registers handlers and describes them.
macro_rules! endpoints {
    ($($module:ident::$name:ident),* $(,)?) => {
        /// Registers everything that is served.
        pub fn configure(config: &mut web::ServiceConfig) {
            $(config.service($module::$name);)*
        }

        #[derive(OpenApi)]
        #[openapi(
            info(
                title = "Zoneward",
                version = "1",
                description = "The REST API of a node: docs/api.md has the rules.",
                license(name = "Apache-2.0", identifier = "Apache-2.0"),
            ),
            paths($($module::$name),*),
            components(schemas(ProblemBody)),
        )]
        struct Api;
    };
}

endpoints!(
    live::livez,
    live::readyz,
    live::version,
    live::health,
    reads::zone,
    levels::levels,
    reads::nodes,
    reads::node,
    reads::sources,
    reads::source,
    reads::targets,
    reads::target,
    reads::checkpoints,
    reads::checkpoint,
    reads::steps,
    reads::step,
    reads::sectors,
    reads::sector,
    things::make_checkpoint,
    things::add_source,
    things::change_source,
    things::remove_source,
    things::change_target,
    things::change_node,
    keep::forget,
    keep::undelete,
    keep::set_tags,
    keep::retention,
    keep::set_retention,
    restores::make_restore,
    restores::restores,
    restores::restore,
    restores::stop_restore,
    schedules::schedules,
    schedules::schedule,
    schedules::put_schedule,
    schedules::remove_schedule,
    schedules::conditions,
    schedules::set_conditions,
    schedules::audits,
    schedules::set_audits,
    schedules::limits,
    schedules::set_limits,
    stream::events,
    metrics::metrics,
    own::openapi,
);

mod own {
    use actix_web::get;

    use crate::api::{Answer, document, reply};

    /// This description.
    #[utoipa::path(tag = "health", security(("token" = [])), responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
    #[get("/api/v1/openapi.json")]
    pub async fn openapi() -> Answer {
        reply::of_now(document())
    }
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(make);

/// The description of the API.
pub fn document() -> &'static Value {
    &DOCUMENT
}

fn make() -> Value {
    // A description that cannot be made is an empty one, and the test that compares it fails.
    let mut doc = serde_json::to_value(Api::openapi()).unwrap_or_default();
    let failures = json!({
        "description": "It was not done: docs/errors.md has a row for each result_code",
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    });
    for item in doc["paths"].as_object_mut().into_iter().flat_map(|p| p.values_mut()) {
        for operation in item.as_object_mut().into_iter().flat_map(|i| i.values_mut()) {
            for answer in operation["responses"].as_object_mut().into_iter().flat_map(|r| r.values_mut()) {
                if answer["description"] == "" {
                    answer["description"] = "As it is now".into();
                }
            }
            operation["responses"]["default"] = failures.clone();
        }
    }
    doc["components"]["securitySchemes"] = json!({"token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "zwt_<id>_<secret>",
        "description": "zoneward token create makes one; the names beside it are the scopes that it needs",
    }});
    doc
}

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// Any valid token.
    Token,
    Scope(Scope),
}

/// One path, and what each of its methods needs.
struct Route {
    path: &'static str,
    methods: Vec<(Method, Need)>,
}

/// The paths that are served, as the description has them.
static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let paths = DOCUMENT["paths"].as_object();
    paths.into_iter().flatten().map(|(path, item)| Route { path, methods: methods(item) }).collect()
});

fn methods(item: &'static Value) -> Vec<(Method, Need)> {
    let all = item.as_object().into_iter().flatten();
    let named = all.filter_map(|(m, operation)| Some((m.to_uppercase().parse().ok()?, need_of(operation))));
    named.collect()
}

/// A scope that is not known is one that only `admin` has.
fn need_of(operation: &Value) -> Need {
    let Some(scopes) = operation["security"][0]["token"].as_array() else { return Need::Nothing };
    match scopes.first().and_then(Value::as_str) {
        None => Need::Token,
        Some(name) => Need::Scope(Scope::ALL.into_iter().find(|s| s.name() == name).unwrap_or(Scope::Admin)),
    }
}

fn fits(pattern: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    pattern.split('/').all(|p| parts.next().is_some_and(|x| p == x || (p.starts_with('{') && !x.is_empty())))
        && parts.next().is_none()
}

fn find(path: &str) -> Option<&'static Route> {
    // No name here needs an escape.
    let plain = !path.contains('%');
    let exact = || ROUTES.iter().find(|r| r.path == path);
    plain.then(|| exact().or_else(|| ROUTES.iter().find(|r| fits(r.path, path)))).flatten()
}

/// The path's pattern.
pub fn route(path: &str) -> Option<&'static str> {
    find(path).map(|r| r.path)
}

/// What a request needs, if it is one that is served.
pub fn need(method: &Method, path: &str) -> Result<Need, Problem> {
    let route = find(path).ok_or_else(|| Problem::not_found("nothing is served under this path"))?;
    let of = route.methods.iter().find(|(m, _)| m == method).map(|(_, need)| *need);
    of.ok_or_else(|| Problem::method(route.methods.iter().map(|(m, _)| m.as_str()).collect::<Vec<_>>().join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_known_with_their_methods_and_scopes() {
        let need = |path| need(&Method::GET, path);
        assert_eq!(need("/api/v1/zone").unwrap(), Need::Scope(Scope::StatusRead));
        assert_eq!(need("/api/v1/nodes/17").unwrap(), Need::Scope(Scope::StatusRead));
        for nothing in ["/", "/api/v1/nodes/17/x", "/api/v1/nodes/", "/api/v1", "/api/v2/zone", "//", "/api/v1/%7Aone"]
        {
            assert_eq!(need(nothing).unwrap_err().status.as_u16(), 404, "{nothing}");
        }
        let wrong = super::need(&Method::PUT, "/api/v1/zone").unwrap_err();
        assert_eq!((wrong.status.as_u16(), wrong.allow.as_deref()), (405, Some("GET")));
    }

    #[test]
    fn only_what_tells_nothing_is_open() {
        let open = |r: &Route| r.methods.iter().any(|(_, n)| *n == Need::Nothing);
        let open: Vec<_> = ROUTES.iter().filter(|r| open(r)).map(|r| r.path).collect();
        assert_eq!(open, ["/api/v1/health", "/api/v1/version", "/livez", "/readyz"]);
    }

    #[test]
    fn the_description_that_is_checked_in_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let now = serde_json::to_string_pretty(document()).unwrap() + "\n";
        if std::env::var_os("ZONEWARD_WRITE").is_some() {
            std::fs::write(path, &now).unwrap();
        }
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(kept == now, "it is old: ZONEWARD_WRITE=1 cargo test -p zoneward --lib checked_in writes it");
    }

    #[test]
    fn every_operation_says_how_it_fails() {
        let doc = document();
        assert_eq!(doc["openapi"], "3.1.0");
        let paths = doc["paths"].as_object().unwrap();
        assert!(paths.len() >= 15, "{}", paths.len());
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                assert!(operation["responses"]["default"].is_object(), "{method} {path}");
                assert!(operation["summary"].is_string(), "{method} {path}");
            }
        }
    }
}
