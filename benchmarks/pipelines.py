"""Opens our pipeline or a baseline."""

from benchmarks.pipeline import Pipeline, PipelineSpec


def open_pipeline(spec: PipelineSpec) -> Pipeline:
    """Load the model of a pipeline; imports only the packages that it needs."""
    if spec.kind == "ours":
        from benchmarks.our_pipeline import Ours

        return Ours(spec.path)
    if spec.kind == "hf":
        from benchmarks.baselines.hugging_face import HuggingFace

        return HuggingFace(spec.path)
    from benchmarks.baselines.plain_torch import PlainTorch

    return PlainTorch(spec.path, spec.kind)
