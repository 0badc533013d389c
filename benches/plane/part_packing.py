"""Best-fit packing: the plan against LightBinPack, with the ids moved against TRL."""

from harness import Contestant, Part, Ratio, Results, Setting, run_once

LENGTH = 2048


def part(setting: Setting) -> Part:
    """The contest, one thread each."""
    lens = setting.data / "lens.npy"
    few = 2 if setting.scale > 0.5 else None  # TRL takes gigabytes and half a minute at full size
    contestants = [
        Contestant("pack_best_fit", [setting.ours("plan_ours.py", lens, LENGTH)]),
        Contestant("LightBinPack obfd", [setting.peer("plan_lightbinpack.py", lens, LENGTH)]),
        Contestant("pack_best_fit and gather", [setting.ours("move_ours.py", lens, LENGTH)]),
        Contestant("TRL bfd", [setting.peer("move_trl.py", lens, LENGTH)], {"HF_HUB_OFFLINE": "1"}, rounds=few),
    ]
    ratios = [
        Ratio("plan", "pack_best_fit", ["LightBinPack obfd"], at_least=8),
        Ratio("plan, and ids moved", "pack_best_fit and gather", ["TRL bfd"], at_least=30),
    ]

    def check(results: Results) -> list[str]:
        found = {name: result["found"] for name, result in results.items()}
        command = setting.ours("plan_check.py", lens, LENGTH)
        wanted = run_once(Contestant("check", [command]))["found"]["bins"]
        return [
            f"{name} made {found[name]['bins']} bins, and best-fit decreasing makes {wanted}"
            for name in ("pack_best_fit", "pack_best_fit and gather")
            if name in found and found[name]["bins"] != wanted
        ] + [f"{name}: a sequence is not where it should be" for name in found if not found[name].get("right", True)]

    return Part(
        "packing",
        f"packing: {setting.rows(1_000_000):,} lengths into rows of {LENGTH}, one thread",
        contestants,
        ratios,
        check,
    )
