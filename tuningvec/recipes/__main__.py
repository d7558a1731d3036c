"""`python -m tuningvec.recipes <family> [<member>]`: train a shipped family again."""

import argparse
import importlib
import sys

from tuningvec.errors import TuningVecError
from tuningvec.family.spec import GGUF, Family


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tuningvec.recipes", description=__doc__)
    parser.add_argument("family", help="a family whose spec names a recipe: smollm2, smollm2_full, tiny")
    parser.add_argument("member", nargs="*", help="members to make (all that the recipe makes when none is named)")
    steps = {"type": int, "nargs": "+", "default": [], "metavar": "STEP"}
    parser.add_argument("--checkpoints", help="steps after which the weights are kept as well; 0 is the start", **steps)
    args = parser.parse_args(arguments)
    try:
        family = Family.load(args.family, files=False)
        if family.recipe is None:
            raise TuningVecError(f"{family.file}: recipe: this family has none")
        recipe = importlib.import_module(f"tuningvec.recipes.{family.recipe}")
        for name in args.member or [m.name for m in family.members if not isinstance(m.source, GGUF)]:
            recipe.run(name, family, args.checkpoints)
    except TuningVecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
