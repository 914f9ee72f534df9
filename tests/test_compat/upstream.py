"""Autograd functions as upstream repositories make them of the compiled modules; written for these tests."""

import torch


def mamba_scan(recompute=False, own_dz=False):
    """As `mamba_ssm`: B and C in groups, contiguous; the gate fused; `dz` given or not."""
    import selective_scan_cuda

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
            out, x, *rest = selective_scan_cuda.fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
            assert len(rest) == (z is not None) and out.is_contiguous()
            ctx.delta_softplus, ctx.last_state = delta_softplus, x[:, :, -1, 1::2]
            ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, x, out)
            return (rest[0] if rest else out), ctx.last_state

        @staticmethod
        def backward(ctx, dout, _):
            u, delta, A, B, C, D, z, delta_bias, x, out = ctx.saved_tensors
            dz = torch.full_like(z, float('nan')) if own_dz else None
            du, ddelta, dA, dB, dC, dD, dbias, *rest = selective_scan_cuda.bwd(
                u,
                delta,
                A,
                B,
                C,
                D,
                z,
                delta_bias,
                dout.contiguous(),
                x,
                None if z is None else out,
                dz,
                ctx.delta_softplus,
                recompute,
            )
            assert len(rest) == (z is not None) * (1 + recompute)
            if own_dz:
                assert rest[0] is dz
            if len(rest) == 2:
                torch.testing.assert_close(rest[1], out * torch.nn.functional.silu(z))
            return du, ddelta, dA, dB, dC, dD, rest[0] if rest else None, dbias, None

    return Scan.apply


def vmamba_scan(module, *flags):
    """As VMamba, of any of its modules; flags are what the module's `fwd` takes after the usual arguments."""

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u, delta, A, B, C, D, delta_bias, delta_softplus):
            out, x = module.fwd(u, delta, A, B, C, D, delta_bias, delta_softplus, 1, *flags)
            ctx.delta_softplus = delta_softplus
            ctx.save_for_backward(u, delta, A, B, C, D, delta_bias, x)
            return out

        @staticmethod
        def backward(ctx, dout):
            u, delta, A, B, C, D, delta_bias, x = ctx.saved_tensors
            dout = dout if dout.stride(-1) == 1 else dout.contiguous()
            return *module.bwd(u, delta, A, B, C, D, delta_bias, dout, x, ctx.delta_softplus, 1), None

    return Scan.apply
