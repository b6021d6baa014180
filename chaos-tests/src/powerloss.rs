pub fn run(_: crate::Plan) -> anyhow::Result<bool> {
    anyhow::bail!("not yet")
}
