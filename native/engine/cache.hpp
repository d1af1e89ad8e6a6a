// Rows of keys and values in one arena of pages of 16 positions. Forked rows share the full pages of their prefix.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"

namespace outpace {

class Cache {
 public:
  // capacity: positions of all rows together. The memory is reserved, and used only as it is written.
  Cache(const Kernels& kernels, int layers, int kv_heads, int head_dim, bool half, int64_t capacity);
  ~Cache();
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  int open();
  int fork(int row) { return fork(row, length(row)); }
  // A row with the first positions of another; throws std::runtime_error when the arena is full.
  int fork(int row, int length);
  void close(int row);
  int length(int row) const { return at(row).length; }
  // Makes room for nodes behind the committed positions; throws std::runtime_error when the arena is full.
  void reserve(int row, int nodes);
  const int32_t* pages(int row) const { return at(row).pages.data(); }

  // A node's keys and values of the first layers, to the slot of another.
  void move(int row, int from, int to, int layers);

  // Commits the nodes of a path (ascending node ids, the root included): slides each to its absolute position.
  void keep(int row, const std::vector<int>& path);

  uint8_t* layer(int l) const { return base_ + (size_t)l * layer_bytes_; }
  size_t page_bytes() const { return page_bytes_; }
  size_t head_bytes() const { return head_bytes_; }
  bool half() const { return half_; }
  int64_t used_bytes() const;

 private:
  struct Row {
    bool used = false;
    int length = 0;
    std::vector<int32_t> pages;
  };
  const Row& at(int row) const;
  Row& at(int row);
  int32_t take_page();
  void drop_page(int32_t page);

  const Kernels& kernels_;
  const int layers_, kv_heads_, head_dim_;
  const bool half_;
  size_t head_bytes_, page_bytes_, layer_bytes_, mapped_;
  uint8_t* base_ = nullptr;
  std::vector<Row> rows_;
  std::vector<int32_t> free_, users_;
};

}  // namespace outpace
