// SPDX-License-Identifier: Apache-2.0
// The matrix products, written once on the primitives.
constexpr MatmulKernels matmul_kernels{};
