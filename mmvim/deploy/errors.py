"""What is raised where a model cannot be exported or an exported one cannot run."""

from importlib.util import find_spec

# The import names of what `pip install "mmvim[export]"` brings.
EXPORT_PACKAGES = ('onnx', 'onnx_ir', 'onnxscript', 'onnxruntime')


class DeployError(ValueError):
    """An error that the user can mend.

    Args:
        problem: What is wrong, naming the argument and its value.
        remedy: What to do about it.

    Examples:
        >>> from mmvim.deploy import DeployError
        >>> print(DeployError('opset 9 is not supported', 'give one of 18 to 23'))
        opset 9 is not supported; give one of 18 to 23
    """

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem, self.remedy = ' '.join(problem.split()), remedy
        super().__init__(f'{self.problem}; {remedy}')


class MissingPackageError(DeployError):
    """A package is not installed.

    Args:
        name: Its import name.
        remedy: What to install.

    Examples:
        >>> from mmvim.deploy import MissingPackageError
        >>> print(MissingPackageError('onnx', 'pip install onnx'))
        onnx is not installed; pip install onnx
    """

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(f'{name} is not installed', remedy)


def check_packages(*names: str, remedy: str = 'pip install "mmvim[export]"') -> None:
    """Check that packages can be imported, without importing them.

    Args:
        *names: Import names.
        remedy: What to do if one is missing. Defaults to installing the extra ``export``.

    Raises:
        MissingPackageError: If one cannot.

    Examples:
        >>> from mmvim.deploy.errors import check_packages
        >>> check_packages('json')
    """
    for name in names:
        if find_spec(name) is None:
            raise MissingPackageError(name, remedy)
