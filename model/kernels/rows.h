// Image tensors as rows (pixels) of channels, and the division of rows into tasks for the threads.
#pragma once
#include "gemm.h"
#include "pool.h"

constexpr int64_t kTaskGroups = 8;  // row tiles in a task: few enough for their activations to stay in L2

struct Images { int64_t count, height, width, channels; };

// `rows` divided into tasks of whole row tiles of `tile_rows`, about the same number for each thread.
struct RowCut {
  int64_t rows, task_rows, tasks;
  explicit RowCut(int64_t all, int64_t tile_rows = kTileRows) : rows(all) {
    const int64_t tiles = ceil_div(all, tile_rows), threads = pool_size();
    const int64_t wanted = round_up(ceil_div(tiles, kTaskGroups), threads);
    task_rows = ceil_div(tiles, wanted < tiles ? wanted : tiles) * tile_rows;
    tasks = ceil_div(all, task_rows);
  }
  int64_t first(int64_t task) const { return task * task_rows; }
  int64_t count(int64_t task) const { return rows - first(task) < task_rows ? rows - first(task) : task_rows; }
};
