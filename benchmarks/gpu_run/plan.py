"""The stages of a run, most important first, with their limits in a run of nine minutes.

The limits add up to more than nine minutes: most stages end earlier, and what does not fit is run
by a second call with the same folder.
"""

from benchmarks.gpu_run.runner import Stage

MINUTES = 9
"""The length of a run that the limits are made for."""

MACHINE = Stage("machine", "machine and versions", 30)
"""Runs first, and every time: without it nothing else can."""

STAGES = (
    Stage("constants", "constants of the card", 40),
    Stage("correctness", "every op against the reference", 75),
    Stage("speed_table", "speed table", 60),
    Stage("networks:captured", "network, captured", 90),
    Stage("networks:default:64", "network by torch.compile, batch 64", 90),
    Stage("kernel_times", "time by kernel", 35),
    Stage("trainer", "trainer, captured and host-launched", 60),
    Stage("networks:default:256", "network by torch.compile, batch 256", 75),
    Stage("networks:max-autotune:64", "network by torch.compile max-autotune, batch 64", 120),
    Stage("layers", "single layers", 60),
    Stage("cudnn_graphs", "cuDNN graphs", 40),
    Stage("sanitizer", "compute-sanitizer", 60),
    Stage("networks:max-autotune:256", "network by torch.compile max-autotune, batch 256", 120),
)


DRY_RUN = Stage("networks:default:1", "network by torch.compile, traced", 90)
"""In place of what compiles the network for other batches."""


def stages(update: bool, dry_run: bool) -> list[Stage]:
    """Return the stages of a run; the speed table is measured only with `--update`."""
    chosen = [stage for stage in STAGES if update or stage.name != "speed_table"]
    if not dry_run:
        return chosen
    kept = [stage for stage in chosen if stage.name.count(":") < 2]
    return [*kept, DRY_RUN]
