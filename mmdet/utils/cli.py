"""What the command-line tools share: how they end."""
import os
import sys
import traceback
from typing import Callable


def message(error: BaseException) -> str:
    """An error's type and words, without the quotes that KeyError puts around them."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    return f'{type(error).__name__}: {text}'


def run_main(main: Callable[[], None]) -> int:
    """Run a tool; a failure prints the traceback and then, as the last line, what was wrong. Returns exit code."""
    try:
        main()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get('RANK', '0') == '0':
            traceback.print_exc()
            print(f'\nerror: {message(error)}', file=sys.stderr)
        return 1
    return 0
