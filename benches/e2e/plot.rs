//! A picture of the CPU cost by scenario and broker, on a logarithmic scale.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::report::{OURS, Report};

const LABEL_WIDTH: f64 = 230.0;
const PLOT_WIDTH: f64 = 560.0;
const BAR_HEIGHT: f64 = 13.0;
const GAP: f64 = 14.0;
const TOP: f64 = 46.0;

/// Writes `cpu.svg`, if something was measured that belongs there.
pub fn save(report: &Report, out: &Path) -> Result<()> {
    let scenarios = report.medians("cpu_us");
    let values = || {
        scenarios
            .iter()
            .flat_map(|(_, brokers)| brokers.iter().map(|(_, v)| *v))
    };
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(0.0, f64::max);
    if !low.is_finite() || low <= 0.0 {
        return Ok(());
    }
    let (low, high) = (low.log10().floor(), high.log10().ceil());
    let x = |value: f64| LABEL_WIDTH + (value.log10() - low) / (high - low) * PLOT_WIDTH;
    let mut body = String::new();
    let mut y = TOP;
    for (name, brokers) in &scenarios {
        writeln!(
            body,
            r#"<text class="s" x="8" y="{:.0}">{name}</text>"#,
            y + 10.0
        )?;
        for (broker, value) in brokers {
            let class = if *broker == OURS { "o" } else { "b" };
            let (end, text_y) = (x(*value), y + 10.0);
            writeln!(
                body,
                r#"<rect class="{class}" x="{LABEL_WIDTH}" y="{y:.0}" width="{:.1}" height="{}"/><text x="{:.1}" y="{text_y:.0}">{broker} {}</text>"#,
                (end - LABEL_WIDTH).max(1.0),
                BAR_HEIGHT - 2.0,
                end + 5.0,
                short(*value),
            )?;
            y += BAR_HEIGHT;
        }
        y += GAP;
    }
    let mut grid = String::new();
    for power in low as i32..=high as i32 {
        let at = x(10f64.powi(power));
        writeln!(
            grid,
            r#"<line x1="{at:.1}" x2="{at:.1}" y1="{:.0}" y2="{y:.0}"/><text x="{at:.1}" y="{:.0}" text-anchor="middle">{} µs</text>"#,
            TOP - 8.0,
            TOP - 12.0,
            short(10f64.powi(power)),
        )?;
    }
    let (width, height) = (LABEL_WIDTH + PLOT_WIDTH + 170.0, y + 8.0);
    let svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">
<style>text{{font:11px sans-serif;fill:#555}}.s{{font-weight:600;fill:#222}}.o{{fill:#d9622b}}.b{{fill:#a9b4c2}}line{{stroke:#e3e6ea}}</style>
<rect width="100%" height="100%" fill="#fff"/>
<text class="s" x="8" y="18">Broker CPU per event (or connection), logarithmic: shorter is better</text>
{grid}{body}</svg>
"##
    );
    Ok(fs::write(out.join("cpu.svg"), svg)?)
}

fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{}", (v * 10.0).round() / 10.0),
        v => format!("{}", (v * 1000.0).round() / 1000.0),
    }
}
