//! The tables of fields and settings with their effect.

use std::fmt::Write as _;

use anyhow::Result;
use common::effect::{CDI, DATA_VOLUME, Effect, Field, VOLUME_CLONE_SOURCE};

/// Writes a table for each kind.
pub(super) fn write(page: &mut String) -> Result<()> {
    page.push_str(
        "\n## Fields of a clone\n\nOf a DataVolume with a clone source. What is refused is refused at creation; what has no effect is told \
         there with a warning.\n",
    );
    table(page, &DATA_VOLUME)?;
    page.push_str(
        "\n## Settings of the CDI object\n\nWhat has no effect is told with a warning when it is written. The CDIConfig's `spec` has the \
         fields of `spec.config`.\n",
    );
    table(page, &CDI)?;
    page.push_str("\n## Fields of a VolumeCloneSource\n");
    table(page, &VOLUME_CLONE_SOURCE)
}

fn table<When>(page: &mut String, fields: &[Field<When>]) -> Result<()> {
    page.push_str("\n| field | effect | why |\n|---|---|---|\n");
    for field in fields {
        let (effect, why) = match &field.effect {
            Effect::Honoured => ("honoured", ""),
            Effect::Refused(_, why) => ("refused", *why),
            Effect::Unused(_, why) => ("none", *why),
        };
        writeln!(page, "| `{}` | {effect} | {why} |", field.path)?;
    }
    Ok(())
}
