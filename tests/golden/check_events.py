"""Reads TensorBoard's event files of a run with TensorBoard's own reader, and compares them with trainer_log.jsonl beside them.
python check_events.py OUTPUT_DIR"""
import json
import sys
from pathlib import Path

from tensorboard import version
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main() -> None:
    folder = Path(sys.argv[1])
    events = EventAccumulator(str(folder / "runs"), purge_orphaned_data=True)
    events.Reload()
    lines = [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text().splitlines()]
    print(f"tensorboard {version.VERSION}")
    off = 0
    for tag, key in (("train/loss", "loss"), ("train/learning_rate", "lr"), ("train/grad_norm", "grad_norm"), ("eval/loss", "eval_loss")):
        logged = {line["current_steps"]: line[key] for line in lines if key in line}
        found = {e.step: e.value for e in events.Scalars(tag)} if tag in events.Tags()["scalars"] else {}
        same = logged.keys() == found.keys() and all(abs(found[s] - v) <= 1e-6 * max(1e-6, abs(v)) for s, v in logged.items())
        off += not same
        print(f"{tag}: {len(found)} steps, {'equal to' if same else 'NOT'} the log's {len(logged)}")
    sys.exit(1 if off else 0)


if __name__ == "__main__":
    main()
