from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tour_passes_through_every_room():
    tour = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
    rooms = {
        path.stem for path in (ROOT / "minikd").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    missing = {room for room in rooms if not room.startswith("__") and f"minikd.{room}`" not in tour}
    assert rooms and not missing
