//! The REST API of a node, under `/api/v1`: HTTP/1.1 on the loopback interface, for programs and for people with a browser.
//!
//! A request passes [`front`] (host, headers, token, limits, and every failure as a problem), then [`envelope`], then its
//! handler. [`document`] is the one list of handlers: what is not in it is not served, and what is served is described.
//! Rules and examples: `docs/api.md`.

mod changes;
mod document;
mod envelope;
mod events;
mod front;
mod keep;
mod levels;
mod live;
mod metrics;
mod page;
mod problem;
mod rate;
mod reads;
mod reply;
mod restores;
mod schedules;
mod serve;
mod stream;
mod things;
mod times;
pub(crate) mod token;
mod views;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use zoneward_actors::engine::HealthBoard;
use zoneward_actors::node::{Node, NodeReport};
use zoneward_consensus::model::State;
use zoneward_sectors::ids::NodeId;

pub use document::document;
pub use problem::{PROBLEM, Problem, ProblemBody};
pub use serve::{LISTEN, Listener, Server, bind};

/// Bytes of a body.
pub const BODY_LEN_MAX: usize = 1 << 20;
/// Bytes of all headers of a request; the server below reads at most 128 KiB.
pub const HEADERS_LEN_MAX: usize = 16 << 10;
/// Items of one page, and where nothing is said.
pub const PAGE_MAX: usize = 1000;
pub const PAGE: usize = 100;
/// How long a read waits for `min_revision`.
const BEHIND_WAIT: Duration = Duration::from_secs(5);
/// What the nodes say of themselves is asked for again after so long.
const REPORTS_AGE: Duration = Duration::from_secs(1);

/// What the handlers share.
pub struct Shared {
    pub node: Arc<Node>,
    pub health: HealthBoard,
    /// Nobody outside is told where it lies.
    home: PathBuf,
    reports: Mutex<Option<(Instant, Reports)>>,
    rates: rate::Rates,
    failures: rate::Failures,
    times: times::Times,
    events: Arc<events::Events>,
}

/// How the nodes do, by their own words.
pub type Reports = Arc<BTreeMap<NodeId, NodeReport>>;

type Answer = Result<actix_web::HttpResponse, Problem>;

impl Shared {
    fn new(node: Arc<Node>, health: HealthBoard, home: PathBuf) -> Self {
        Self {
            node,
            health,
            home,
            reports: Mutex::default(),
            rates: rate::Rates::default(),
            failures: rate::Failures::default(),
            times: times::Times::default(),
            events: Arc::default(),
        }
    }

    /// The state, as new as was asked for.
    async fn view(&self, min_revision: Option<u64>) -> Result<Arc<State>, Problem> {
        let cluster = &self.node.cluster;
        let Some(min) = min_revision.filter(|min| cluster.view().revision < *min) else { return Ok(cluster.view()) };
        let wait = async {
            let mut at = None;
            while cluster.view().revision < min {
                at = Some(cluster.applied_beyond(at).await?);
            }
            Some(cluster.view())
        };
        tokio::time::timeout(BEHIND_WAIT, wait).await.ok().flatten().ok_or_else(|| Problem::behind(min))
    }

    /// How all nodes do: asked at most once a second, however many want to know.
    async fn reports(self: &Arc<Self>) -> Result<Reports, Problem> {
        let shared = self.clone();
        let asked = actix_web::web::block(move || {
            let mut kept = shared.reports.lock().unwrap_or_else(|e| e.into_inner());
            if let Some((_, reports)) = kept.as_ref().filter(|(at, _)| at.elapsed() < REPORTS_AGE) {
                return reports.clone();
            }
            let reports = Arc::new(shared.node.reports());
            *kept = Some((Instant::now(), reports.clone()));
            reports
        });
        asked.await.map_err(|_| Problem::internal("the node stops"))
    }

    /// Free text without the place of the home.
    fn outside(&self, text: &str) -> String {
        match self.home.to_str() {
            Some(home) if home.len() > 1 => text.replace(home, "(home)"),
            _ => text.to_owned(),
        }
    }
}
