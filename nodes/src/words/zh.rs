//! Chinese.

use zoneward_consensus::levels::{About, Cause, Next};
use zoneward_consensus::model::Standing;

use crate::units::{count, show_path};

/// Name and consequence, by number.
pub const RELIABILITY: [(&str, &str); 7] = [
    ("安全", "即使整个场所损毁（比如火灾），也不会丢失一天以前的数据"),
    ("部分安全", "整个场所损毁会丢失部分数据；可以承受单台设备损坏"),
    ("存在风险", "单台设备损坏会导致数据丢失"),
    ("有风险", "单块磁盘损坏会导致数据丢失，但不会丢失重要数据"),
    ("警告", "单块磁盘损坏会导致重要数据丢失"),
    ("错误", "已经有数据丢失；剩余的数据还可以抢救"),
    ("失效", "就区域所知，全部数据已经丢失，无法自动修复"),
];

/// Name and consequence, by number.
pub const AVAILABILITY: [(&str, &str); 7] = [
    ("正常", "一切可用，任何一个节点失效后仍能继续"),
    ("乐观正常", "一切可用；最近备份的数据还在制作其余副本"),
    ("写风险", "已存储的数据都可以取回；再有一个节点失效，备份就会停止或等待"),
    ("系统异常", "暂时不能做新的决定，会自动恢复"),
    ("只读", "在有人处理之前不能备份；已存储的数据可以恢复"),
    ("错误", "已存储的数据中有一部分现在不能恢复"),
    ("失效", "不能做任何决定，也不能恢复任何数据"),
];

fn source(s: &About) -> String {
    match s.others {
        0 => show_path(&s.path),
        n => format!("{} 等 {} 个备份源", show_path(&s.path), count(n as u64 + 1)),
    }
}

fn age(ms: u64) -> String {
    let hours = ms / 3_600_000;
    match hours {
        0..=47 => format!("{hours} 小时"),
        h => format!("{} 天", h / 24),
    }
}

fn down(node: &str, standing: Standing) -> String {
    match standing {
        Standing::Faulty => format!("节点 {node} 已标记为故障，但仍属于区域"),
        Standing::Witness => format!("见证节点 {node} 没有应答"),
        Standing::Draining => format!("不再接受新工作的节点 {node} 没有应答"),
        Standing::Standby => format!("待命的节点 {node} 没有应答"),
        Standing::Member => format!("节点 {node} 没有应答"),
    }
}

pub fn cause(c: &Cause) -> String {
    match c {
        Cause::AllSurvives => "每个备份源在场所之外都有一份完整的、不超过一天的副本".into(),
        Cause::NoSources => "还没有备份任何备份源".into(),
        Cause::NoTargets => "没有备份目标".into(),
        Cause::NeverStored { source: s } => format!("{} 还不在任何检查点里", source(s)),
        Cause::StoredInPart { source: s } => format!("{} 存储的内容不完整：有副本损坏或丢失", source(s)),
        Cause::Stale { source: s, age_ms } => format!("{} 最新的完整检查点是 {} 前的", source(s), age(*age_ms)),
        Cause::OneDisk { source: s, target } => format!("{} 无法读取，而全部副本都在备份目标 {target} 上", source(s)),
        Cause::OneDevice { source: s, device } => {
            format!("{} 和它一天之内的全部副本都在同一台设备里：{device}", source(s))
        }
        Cause::OneSite { source: s } => format!("场所之外没有任何备份目标持有 {} 的全部内容", source(s)),
        Cause::Unread { source: s, paths, first } => {
            format!("{} 中有 {} 个路径无法读取，因此不能按现在的样子恢复：{first}", source(s), count(*paths))
        }
        Cause::Lost { source: s } => format!("{} 已随节点丢失，而存储的内容不完整", source(s)),
        Cause::AllLost => "全部备份源都已丢失，并且没有任何一个留有完整的检查点".into(),
        Cause::CopiesMissing { copies, short: false } => format!("还有 {} 个副本待制作", count(*copies)),
        Cause::CopiesMissing { copies, short: true } => {
            format!("还缺 {} 个副本，而备份目标不够", count(*copies))
        }
        Cause::CopiesDamaged { copies, targets } => {
            format!("{} 个副本损坏或丢失，尚未重建；所在的备份目标：{}", count(*copies), targets.join("、"))
        }
        Cause::Unaudited { copies, target } => {
            format!("{} 个副本很久没有抽查，其中最久的在备份目标 {target} 上", count(*copies))
        }
        Cause::OlderDamaged { sectors } => {
            format!("较早的检查点不能完整恢复：有 {} 个扇区已没有任何副本", count(*sectors))
        }
        Cause::OriginalGone { source: s, node } => {
            format!("节点 {node} 已不在，{} 也随之不在：只剩下已存储的内容", source(s))
        }
        Cause::Refused { source: s, code, why } => {
            format!("上次备份没有更新 {}（ZW-{code}）：{why}", source(s))
        }
        Cause::WrongTarget { target } => format!("备份目标 {target} 的位置上是别的东西：它的副本不算数"),
        Cause::AllWorks => "所需的一切都有应答，并且还多出一个节点".into(),
        Cause::OneNode => "只有一个节点".into(),
        Cause::FewNodes { working: 1, .. } => "只有一个节点接受工作".into(),
        Cause::FewNodes { voters, .. } => {
            format!("只有 {} 个节点有投票权，少一个就不能继续", count(*voters as u64))
        }
        Cause::NodeDown { node, standing } => down(node, *standing),
        Cause::SourceWaits { source: s, node, standing } => match standing {
            Some(Standing::Standby) => format!("{} 在等待：读取它的节点 {node} 处于待命状态", source(s)),
            Some(Standing::Draining) => format!("{} 在等待：读取它的节点 {node} 不接受工作", source(s)),
            Some(Standing::Member) => format!("{} 在等待：读取它的节点 {node} 没有应答", source(s)),
            _ => format!("{} 在等待：可以读取它的节点都不在了（{node}）", source(s)),
        },
        Cause::Electing => "各节点正在选举领导者".into(),
        Cause::NoDaemon => "区域有多个节点，而本节点没有运行守护进程：这里看到的可能是旧的".into(),
        Cause::NobodyWorks { node } => format!("没有节点接受工作：{node} 已被要求停止接受"),
        Cause::NoMajority { heard, voters, node, standing } => format!(
            "{} 个有投票权的节点中只有 {} 个应答，不到多数；{}",
            count(*voters as u64),
            count(*heard as u64),
            down(node, *standing)
        ),
        Cause::AllPaused { target } => format!("全部备份目标都已暂停，包括 {target}"),
        Cause::TargetAway { target, all: true } => format!("接受备份的备份目标都没有应答，包括 {target}"),
        Cause::TargetAway { target, all: false } => format!("备份目标 {target} 没有应答"),
        Cause::Unreadable { source: s, target: Some(t), .. } => {
            format!("备份目标 {t} 没有应答，{} 现在不能完整恢复", source(s))
        }
        Cause::Unreadable { source: s, target: None, .. } => {
            format!("{} 不能完整恢复：有一部分已没有任何副本", source(s))
        }
        Cause::NothingWorks { node, standing } => {
            format!("没有多数节点应答，也没有备份目标应答；{}", down(node, *standing))
        }
    }
}

pub fn next(n: &Next) -> &'static str {
    match n {
        Next::Prove => "无需处理；不时验证一次全部内容可读",
        Next::Wait => "稍等片刻再看",
        Next::AddSource => "指定要备份的内容",
        Next::AddTarget => "添加一个备份目标",
        Next::AddTargetElsewhere => "在另一个地点添加备份目标，并写明地点",
        Next::AddTargetOnOtherDevice => "添加一个不依附于这台设备的备份目标",
        Next::ResumeTarget { .. } => "让这个备份目标重新接受扇区",
        Next::AttachTarget { .. } => "接上它的磁盘或恢复网络，然后查看",
        Next::ReplaceTarget { .. } => "挂载正确的磁盘；如果它已不在，就不再依赖它",
        Next::Backup => "现在备份",
        Next::MakeCopies => "运行中的守护进程会自动制作；没有守护进程时由备份制作",
        Next::StoreAnew => "把备份源中仍有的内容重新存储；运行中的守护进程会自动进行",
        Next::MendPaths { .. } => "让节点可以读取这些路径，或者排除它们，再备份一次",
        Next::MendSource { .. } => "按提示修复，然后备份它",
        Next::LookAtCopies => "读取每个副本的一部分；运行中的守护进程会自动进行",
        Next::NameDamage => "查看涉及哪些检查点的哪些文件；今天的数据不受影响",
        Next::Restore { .. } => "恢复到健康的磁盘上，并备份那里",
        Next::SaveWhatIsLeft { .. } => "尽可能让节点回来；否则查看丢失了什么，抢救剩余内容，再移除这个备份源",
        Next::SaveAllThatIsLeft => "查看还能读取什么并抢救出来；然后请专业的数据恢复人士介入",
        Next::StartDaemon => "运行守护进程",
        Next::InviteNode => "增加一个节点或见证节点（--witness）：三个有投票权的节点可以少一个",
        Next::StartNode { .. } => "在那台设备上启动；如果它坏了，请标记",
        Next::StartVoter { .. } => "在那台设备上启动；如果超过半数的投票已永远丢失，由所有者决定让一个节点继续",
        Next::StartWitness { .. } => "在那台设备上启动；如果它坏了，请移除并另请一个",
        Next::ReplaceNode { .. } => "用新节点替换它",
        Next::Undrain { .. } => "让它重新接受工作，或者让另一个节点读取它的备份源",
        Next::ChangeReader { .. } => "在能读取它的节点上，指定由该节点读取",
    }
}
