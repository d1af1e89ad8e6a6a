// What Python says of a model: its config and where its tensors lie. Checked here, once, before anything is made of it;
// std::invalid_argument says in one line what is wrong.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "model/model.hpp"

namespace outpace {

using Bytes = nanobind::ndarray<const uint8_t, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

// The largest size of anything: products of three of them, and what is added to one, do not overflow.
constexpr int kMostSize = 1 << 24;

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument(what); }

// A matrix whose tiles begin at data. Nothing is read; the caller compares the sizes.
Matrix packed_matrix(const std::string& kind, int rows, int cols, const uint8_t* data);

// tensors: name -> (kind, rows, cols, offset, num_bytes) within the packed file; nothing outside it is ever touched.
Model read_model(const nanobind::dict& config, const nanobind::dict& tensors, const Bytes& file);

}  // namespace outpace
