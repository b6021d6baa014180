//! QR codes for a terminal.

use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

/// A code with this text, for a terminal that writes light on dark; `None` if it is too long for one.
pub fn terminal(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    Some(code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_no_code() {
        // In capitals and digits a code holds nearly twice as much.
        assert!(terminal(&"A2".repeat(2_000)).is_some() && terminal(&"a2".repeat(2_000)).is_none());
        assert!(terminal(&"A2".repeat(3_000)).is_none());
    }
}
