"""Sharded training (FSDP) that can be resumed, and that runs on CPUs too."""

from mmengine._strategy.fsdp import FSDPStrategy as StockFSDPStrategy
from mmengine.device import get_device
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmvim.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(StockFSDPStrategy):
    """MMEngine's strategy for ``FullyShardedDataParallel``, with the optimizer's state as PyTorch takes it since 2.1.

    MMEngine hands the state of a checkpoint to PyTorch in the order of arguments that PyTorch 2.0 had, so that
    resuming ends in an error. Without an accelerator the shards are put on the CPU, where MMEngine asks for the GPU of
    the process's number.

    Its arguments are MMEngine's.

    Examples:
        >>> from mmvim.registry import STRATEGIES
        >>> # in a config: runner_type = 'FlexibleRunner'; strategy = dict(type='mmvim.FSDPStrategy')
        >>> STRATEGIES.get('mmvim.FSDPStrategy').__name__
        'FSDPStrategy'
    """

    model_wrapper: dict | None

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        if get_device() == 'cpu':
            own = self.model_wrapper or {'type': 'MMFullyShardedDataParallel'}
            self.model_wrapper = {'device_id': 'cpu', **own}
        return super()._wrap_model(model)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the optimizer's state from this process's part of a checkpoint.

        Args:
            state_dict: What :meth:`optim_state_dict` returned.
        """
        wrapper = self.optim_wrapper
        loaded = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=wrapper.optimizer, optim_state_dict=state_dict
        )
        wrapper.load_state_dict(loaded)
