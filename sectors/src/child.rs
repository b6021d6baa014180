//! Programs that this one starts.

use std::process::Command;

/// Lets a program inherit none of our settings, which may hold secrets; what was set for it on purpose stays.
pub fn without_secrets(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let own = name.to_string_lossy().starts_with("ZONEWARD_");
        if (own || name == "CREDENTIALS_DIRECTORY") && !command.get_envs().any(|(n, _)| n == name) {
            command.env_remove(&name);
        }
    }
}
